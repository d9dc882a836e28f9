"""int8 by row: an answer depends on its own text alone, to the bit.

ONNX Runtime's dynamic quantization gives an activation tensor one scale, so that a sentence's
logits move with its batch-mates and with padding. Here every row (one sub-token's vector) has its
own: `m = max|x|`, `q = round(127 x / m) + 128`, and the product with the int8 weights is scaled
back by `m` after the constant scales.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

_SMALLEST_TABLE = 1000
"""Embedding tables with fewer rows stay fp32: they weigh nothing."""

_MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


def quantize_by_row(source: Path, target: Path, reduce_range: bool = False) -> None:
    """Write an int8 copy of an fp32 graph: linear layers, embedding tables and LSTMs' weights by row.

    Args:
        reduce_range: 7-bit weights, for CPUs without VNNI, whose int8 products saturate.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        dynamic = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            source,
            dynamic,
            op_types_to_quantize=["MatMul"],  # an LSTM would get one scale a tensor: it runs in fp32
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        model = onnx.load(str(dynamic))
    _scale_by_row(model)
    _shrink_tables(model)
    _shrink_recurrent(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _scale_by_row(model: ModelProto) -> None:
    """Replace each `DynamicQuantizeLinear` by plain operators with one scale a row.

    Each product and its scales become one `MatMulIntegerToFloat`: ONNX Runtime, which folds constants
    first, no longer finds them to fuse. The row's factor must come after it: that operator would take
    the factor for a scalar and compute something else.
    """
    graph = model.graph
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1 / 127, np.float32), "row_scale"),
            numpy_helper.from_array(np.array(128, np.uint8), "row_zero"),
            numpy_helper.from_array(np.array(1e-8, np.float32), "row_floor"),
            numpy_helper.from_array(np.array([-1], np.int64), "row_axis"),
        ]
    )
    factors: dict[str, str] = {}  # quantized tensor -> its row factors
    replaced: dict[str, str] = {}  # outputs that are constants now
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "DynamicQuantizeLinear":
            nodes.append(node)
            continue
        (x,), (quantized, scale, zero) = node.input, node.output
        parts = [
            helper.make_node("Abs", [x], [f"{x}_abs"]),
            helper.make_node("ReduceMax", [f"{x}_abs", "row_axis"], [f"{x}_top"], keepdims=1),
            helper.make_node("Max", [f"{x}_top", "row_floor"], [f"{x}_row"]),
            helper.make_node("Div", [x, f"{x}_row"], [f"{x}_unit"]),
            helper.make_node("QuantizeLinear", [f"{x}_unit", "row_scale", "row_zero"], [quantized]),
        ]
        nodes.extend(parts)
        factors[quantized] = f"{x}_row"
        replaced |= {scale: "row_scale", zero: "row_zero"}

    products: dict[str, NodeProto] = {}  # tensor that still lacks its scales -> what made it
    weight_scales: dict[str, str] = {}  # product of both scales -> that of the weights
    result: list[NodeProto] = []
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = replaced.get(name, name)
        if node.op_type == "MatMulInteger":
            products[node.output[0]] = node
        elif node.op_type == "Cast" and node.input[0] in products:
            products[node.output[0]] = products[node.input[0]]
        elif node.op_type == "Mul" and node.input[0] == "row_scale":
            weight_scales[node.output[0]] = node.input[1]
        elif node.op_type == "Mul" and node.input[0] in products:
            product, (output,) = products[node.input[0]], node.output
            quantized, weights, zero, weights_zero = product.input
            scales = ["row_scale", weight_scales[node.input[1]]]
            result += [
                helper.make_node(
                    "MatMulIntegerToFloat",
                    [quantized, weights, *scales, zero, weights_zero],
                    [f"{output}_unscaled"],
                    domain=_MICROSOFT,
                ),
                helper.make_node("Mul", [f"{output}_unscaled", factors[quantized]], [output]),
            ]
        else:
            result.append(node)
    del graph.node[:]
    graph.node.extend(_in_order(result))
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, 18)  # ReduceMax takes its axes as an input
    if all(opset.domain != _MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))


def _in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes, each after those whose outputs it takes.

    ONNX Runtime's quantizer overlooks what the branches of an `If` (DeBERTa has some) take from
    the graph around them.
    """
    makers = {output: node for node in nodes for output in node.output}
    placed = {""}  # an input or output that is left out
    result: list[NodeProto] = []

    def place(node: NodeProto) -> None:
        if placed.issuperset(node.output):
            return
        for name in _taken(node):
            if name in makers and name not in placed:
                place(makers[name])
        placed.update(node.output)
        result.append(node)

    for node in nodes:
        place(node)
    return result


def _taken(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node takes, inside its branches too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _taken(inner)


def _shrink_tables(model: ModelProto) -> None:
    """Embedding tables as int8 with one scale a row, scaled back after the look-up."""
    graph = model.graph
    tables = {
        table.name: table
        for table in graph.initializer
        if table.data_type == TensorProto.FLOAT
        and len(table.dims) == 2
        and table.dims[0] >= _SMALLEST_TABLE
    }
    shrunk: set[str] = set()
    result: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables:
            result.append(node)
            continue
        name, ids, output = node.input[0], node.input[1], node.output[0]
        if name not in shrunk:  # a table may be looked up twice
            shrunk.add(name)
            graph.initializer.extend(_as_int8(tables[name]))
        result += [
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{output}_int8"]),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{output}_scale"]),
            helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output]),
        ]
    del graph.node[:]
    graph.node.extend(result)
    used = {name for node in result for name in _taken(node)}
    for name in shrunk - used:
        graph.initializer.remove(tables[name])


def _shrink_recurrent(model: ModelProto) -> None:
    """Weights of LSTMs as int8 on disk, by row; the runtime scales them back once, when it loads them."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    used = Counter(name for node in graph.node for name in _taken(node))
    restored: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "LSTM":
            continue
        for index in (1, 2):  # of the input and of the state, (directions, 4 * hidden, columns)
            name = node.input[index]
            if name not in weights or used[name] > 1:
                continue
            graph.initializer.extend(_as_int8(weights[name]))
            graph.initializer.remove(weights[name])
            restored += [
                helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]),
            ]
    nodes = [*restored, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _as_int8(table: TensorProto) -> list[TensorProto]:
    """A table as int8 and one scale a row."""
    values = numpy_helper.to_array(table)
    scales = np.maximum(np.abs(values).max(-1, keepdims=True), 1e-8) / 127
    return [
        numpy_helper.from_array(np.round(values / scales).astype(np.int8), f"{table.name}_int8"),
        numpy_helper.from_array(scales.astype(np.float32), f"{table.name}_scale"),
    ]
