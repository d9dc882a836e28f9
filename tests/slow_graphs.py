"""Tiny networks that take all time or all memory."""

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from tests.tiny import VOCABULARY, tiny_graph

HANG = "apple"
"""The word that networks of `hanging` and `stubborn` never come to an end with."""


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


def hanging() -> onnx.ModelProto:
    """The tiny network, which counts for longer than anyone lives if a row holds the word `HANG`."""
    return with_zero(
        [
            *_whether_it_hangs(),
            helper.make_node("Mul", ["hangs", "ages"], ["many"]),
            helper.make_node("Loop", ["many", "yes", "none"], ["counted"], body=adding("one")),
            helper.make_node("Mul", ["counted", "none"], ["zero"]),
        ],
        word=np.array(VOCABULARY.index(HANG)),
        ages=np.array(2**60),
        yes=np.array(True),
        one=np.array(1, np.float32),
        none=np.array(0, np.float32),
    )


def stubborn() -> onnx.ModelProto:
    """The same, in one operator, which ONNX Runtime cannot stop: it picks among 200,000 boxes."""
    return with_zero(
        [
            *_whether_it_hangs(),
            helper.make_node("Mul", ["hangs", "boxful"], ["many"]),
            helper.make_node("Add", ["many", "one"], ["count"]),
            helper.make_node("Range", ["first", "count", "one"], ["numbers"]),
            helper.make_node("Cast", ["numbers"], ["places"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["places", "as_boxes"], ["corners"]),
            helper.make_node("Mul", ["corners", "along"], ["moved"]),
            helper.make_node("Add", ["moved", "box"], ["boxes"]),
            helper.make_node("Reshape", ["places", "as_scores"], ["scores"]),
            helper.make_node("Reshape", ["count", "as_list"], ["most"]),
            helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "half"], ["picked"]),
            helper.make_node("ReduceSum", ["picked"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["float_sum"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float_sum", "none"], ["zero"]),
        ],
        word=np.array(VOCABULARY.index(HANG)),
        boxful=np.array(200_000),
        first=np.array(0),
        one=np.array(1),
        as_boxes=np.array([1, -1, 1]),
        as_scores=np.array([1, 1, -1]),
        as_list=np.array([1]),
        along=np.array([[[1, 0, 1, 0]]], np.float32),
        box=np.array([[[0, 0, 0.5, 1]]], np.float32),
        half=np.array([0.5], np.float32),
        none=np.array(0, np.float32),
    )


def _whether_it_hangs() -> list[onnx.NodeProto]:
    """Nodes that make `hangs`: 1 if a row holds the `word`, else 0."""
    return [
        helper.make_node("Equal", ["input_ids", "word"], ["same"]),
        helper.make_node("Cast", ["same"], ["sames"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["sames"], ["hangs"], keepdims=0),
    ]


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
