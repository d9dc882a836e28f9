"""Tiny networks that take all time or all memory."""

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from tests.tiny import tiny_graph


def endless() -> onnx.ModelProto:
    """The tiny network, which first counts for longer than anyone lives."""
    return with_zero(
        [
            helper.make_node("ReduceSum", ["looked_up"], ["some"], keepdims=0),
            helper.make_node("Mul", ["some", "none"], ["start"]),
            helper.make_node("Loop", ["many", "yes", "start"], ["counted"], body=adding("one")),
            helper.make_node("Mul", ["counted", "none"], ["zero"]),
        ],
        many=np.array(2**60),
        yes=np.array(True),
        one=np.array(1, np.float32),
        none=np.array(0, np.float32),
    )


def greedy() -> onnx.ModelProto:
    """The tiny network, which first fills four gigabytes."""
    return with_zero(
        [
            helper.make_node("ReduceSum", ["looked_up"], ["some"], keepdims=0),
            helper.make_node("Expand", ["some", "many"], ["filled"]),
            helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "none"], ["zero"]),
        ],
        many=np.array([2**30]),
        none=np.array(0, np.float32),
    )


def adding(what: str) -> onnx.GraphProto:
    """The body of a `Loop` that adds a constant to its sum again and again."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Add", ["sum", what], ["next"]),
        ],
        "count",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )


def with_zero(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """The tiny network, and nodes that make a `zero` of what was `looked_up`, added to the logits."""
    model = tiny_graph()
    model.graph.node[-1].output[0] = "without"
    model.graph.initializer.extend(from_array(value, name) for name, value in constants.items())
    model.graph.node.extend([*nodes, helper.make_node("Add", ["without", "zero"], ["logits"])])
    return model
