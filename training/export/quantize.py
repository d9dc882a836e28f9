"""This module quantizes graphs to int8 with one scale a row, so that batch-mates do not change logits.

ONNX Runtime's dynamic quantization gives a whole activation tensor one scale, so that a sentence's logits
change with the other rows of its batch. Here each row, which is one sub-token's vector, has a scale:
`scale = max|x| / 127`, `q = round(x / scale) + 128`; the row's int8 products are multiplied by `scale`.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from training.export.fusion import LARGEST_DIFFERENCE, largest_difference
from training.export.layers import MICROSOFT, OPSET, declare, lean_layers, set_nodes, taken
from training.export.packing import pack_rows

_SMALLEST_TABLE = 1000
"""Embedding tables with fewer rows stay fp32, because they are a small part of the file."""

_ONE_SIDED = {"Gelu", "FastGelu", "Relu"}
"""Operators whose outputs are never below `-_DEEPEST` and have no upper bound."""

_DEEPEST = 0.17  # the minimum of GELU is -0.16997

_MIDDLE, _LOW = 128, 16
"""The uint8 zero points: of symmetric values, and of values that are never below `-_DEEPEST`."""


def quantize_by_row(source: Path, target: Path, reduce_range: bool = False) -> None:
    """Write an int8 copy of an fp32 graph: linear layers, embedding tables and LSTMs' weights by row.

    The graph is first rewritten by `layers`, unless that changes its logits by more than
    `LARGEST_DIFFERENCE`, and at the end packed by `packing`.

    Args:
        reduce_range: 7-bit weights, for CPUs without VNNI, whose int8 products saturate.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        lean = Path(folder) / "lean.onnx"
        onnx.save(lean_layers(onnx.load(str(source))), str(lean))
        same = largest_difference(source, lean) <= LARGEST_DIFFERENCE
        model = onnx.load(str(lean if same else source))
    declare(model, OPSET)
    _Rows(model, 63 if reduce_range else 127).rewrite()
    _shrink_tables(model)
    _shrink_recurrent(model)
    pack_rows(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


class _Rows:
    """Rewrites the products of a graph with constant weights to int8, with one scale a row.

    The operators around the products limit the speed, so they are few and vectorized by ONNX Runtime:

    - `QuantizeLinear`, with blocks as long as a row, divides, rounds and shifts in one pass, for tensors
      of any rank. It needs a zero point for each row; tensors of one shape share their zero points.
    - `MatMulIntegerToFloat` applies the scale of each column. A `Mul` applies the row's scale afterwards,
      because this operator takes only one scale for all rows.
    - GELU's output is never below -0.17, so its zero point is 16 instead of 128. This saves computing
      absolute values, and large values get 239 steps instead of 127.
    - `FastGelu` adds the bias, because the row's scale must be applied before the bias. Its tanh formula is
      within 0.0005 of the exact GELU, a tenth of a step.
    """

    def __init__(self, model: ModelProto, levels: int):
        graph = model.graph
        self._model, self._graph, self._levels = model, graph, levels
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._uses = Counter(name for node in graph.node for name in taken(node))
        self._uses.update(output.name for output in graph.output)
        self._leading = _leading_axes(model)
        self._quantized: dict[str, tuple[str, str, str]] = {}  # tensor -> its uint8 values, scales, zero
        self._zeros: dict[tuple[object, int], str] = {}  # (leading axes, zero) -> name of the zero points
        self._nodes: list[NodeProto] = []

    def rewrite(self) -> None:
        """Replace the products of the graph by int8 products."""
        graph = self._graph
        constants: dict[str, npt.NDArray[Any]] = {
            "row_axis": np.array([-1], np.int64),
            "row_step": np.array(1 / 127, np.float32),
            "row_step_up": np.array(1 / (255 - _LOW), np.float32),
            "row_least": np.array(_DEEPEST / _LOW, np.float32),
            "row_unscaled": np.array(1, np.float32),
            f"row_zero_{_MIDDLE}": np.array(_MIDDLE, np.uint8),
            f"row_zero_{_LOW}": np.array(_LOW, np.uint8),
        }
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        for node in graph.node:
            if node.op_type == "MatMul" and self._is_matrix(node.input[1]):
                self._product(node)
            elif node.op_type == "Gelu" and node.domain == "":
                self._gelu(node)
            else:
                self._nodes.append(node)
        set_nodes(self._model, self._nodes)

    def _is_matrix(self, name: str) -> bool:
        return name in self._weights and len(self._weights[name].dims) == 2

    def _make(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _product(self, node: NodeProto) -> None:
        """Write the product of a tensor quantized by row and of weights with one scale a column."""
        (x, weights), (output,) = node.input, node.output
        quantized, scale, zero = self._rows(x, self._weights[weights].dims[0])
        if f"{weights}_int8" not in self._weights:
            values = numpy_helper.to_array(self._weights[weights])
            scales = np.maximum(np.abs(values).max(0), 1e-8) / self._levels
            int8 = np.round(values / scales).astype(np.int8)
            for name, value in (("int8", int8), ("scale", scales.astype(np.float32))):
                tensor = numpy_helper.from_array(value, f"{weights}_{name}")
                self._weights[tensor.name] = tensor
                self._graph.initializer.append(tensor)
        inputs = [quantized, f"{weights}_int8", "row_unscaled", f"{weights}_scale", zero]
        unscaled = self._make("MatMulIntegerToFloat", inputs, f"{output}_unscaled", domain=MICROSOFT)
        self._make("Mul", [unscaled, scale], output)

    def _rows(self, x: str, width: int) -> tuple[str, str, str]:
        """Quantize a tensor, once; return the names of its uint8 values, its scales and its zero."""
        if x in self._quantized:
            return self._quantized[x]
        one_sided = x in self._makers and self._makers[x].op_type in _ONE_SIDED
        zero = _LOW if one_sided else _MIDDLE
        if one_sided:
            top = self._make("ReduceMax", [x, "row_axis"], f"{x}_top", keepdims=1)
            step = self._make("Mul", [top, "row_step_up"], f"{x}_step")
            scale = self._make("Max", [step, "row_least"], f"{x}_scale")
        else:  # a row of zeros gets the scale 0, which makes its products 0
            size = self._make("Abs", [x], f"{x}_size")
            top = self._make("ReduceMax", [size, "row_axis"], f"{x}_top", keepdims=1)
            scale = self._make("Mul", [top, "row_step"], f"{x}_scale")
        inputs = [x, scale, self._zero(x, scale, zero)]
        quantized = self._make("QuantizeLinear", inputs, f"{x}_uint8", axis=-1, block_size=width)
        self._quantized[x] = (quantized, scale, f"row_zero_{zero}")
        return self._quantized[x]

    def _zero(self, x: str, scale: str, value: int) -> str:
        """Return the name of the zero points of the rows of `x`, shared by tensors of the same shape."""
        key = (self._leading.get(x, x), value)
        if key not in self._zeros:
            shape = self._make("Shape", [scale], f"{x}_rows")
            filling = numpy_helper.from_array(np.array([value], np.uint8))
            self._zeros[key] = self._make("ConstantOfShape", [shape], f"{x}_zero", value=filling)
        return self._zeros[key]

    def _gelu(self, node: NodeProto) -> None:
        """Write GELU by the tanh formula, with the bias that is added before it, if any."""
        inputs = [node.input[0]]
        before = self._makers.get(node.input[0])
        if before and before.op_type == "Add" and self._uses[node.input[0]] == 1:
            constants = [name for name in before.input if self._is_vector(name)]
            if len(constants) == 1:
                self._nodes.remove(before)
                inputs = [name for name in before.input if name != constants[0]] + constants
        self._make("FastGelu", inputs, node.output[0], domain=MICROSOFT)

    def _is_vector(self, name: str) -> bool:
        return name in self._weights and len(self._weights[name].dims) == 1


def _leading_axes(model: ModelProto) -> dict[str, tuple[object, ...]]:
    """Return all axes but the last, by name or size, of tensors whose axes are all known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for item in (*graph.input, *graph.value_info):
        axes = item.type.tensor_type.shape.dim
        leading = tuple(axis.dim_param or axis.dim_value for axis in axes)[:-1]
        if leading and all(leading):
            found[item.name] = leading
    return found


def _shrink_tables(model: ModelProto) -> None:
    """Store embedding tables as int8 with one scale a row, which is applied after the look-up."""
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
        if name not in shrunk:  # several nodes may use one table
            shrunk.add(name)
            graph.initializer.extend(_as_int8(tables[name]))
        result += [
            helper.make_node("Gather", [f"{name}_int8", ids], [f"{output}_int8"]),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{output}_scale"]),
            helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output]),
        ]
    set_nodes(model, result)


def _shrink_recurrent(model: ModelProto) -> None:
    """Store LSTM weights as int8 by row; the runtime converts them back to fp32 once, at load."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    used = Counter(name for node in graph.node for name in taken(node))
    restored: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "LSTM":
            continue
        for index in (1, 2):  # input and recurrent weights, (directions, 4 * hidden, columns)
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
    """Return a table as int8 values and one scale a row."""
    values = numpy_helper.to_array(table)
    scales = np.maximum(np.abs(values).max(-1, keepdims=True), 1e-8) / 127
    return [
        numpy_helper.from_array(np.round(values / scales).astype(np.int8), f"{table.name}_int8"),
        numpy_helper.from_array(scales.astype(np.float32), f"{table.name}_scale"),
    ]
