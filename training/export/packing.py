"""This module packs a transformer's graph, so that it computes almost nothing for padding.

The rows of a batch are padded to the longest row, but all operators of a layer except attention work on
one sub-token at a time. A packed graph gives them a table of the real sub-tokens of all rows, and gives
attention padded rows. A look-up (`Gather`) makes these rows in place of a transposition, so packing costs
nothing without padding. The logits are equal to the bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx.parser
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from training.export.layers import set_nodes, taken

MASK = "attention_mask"

_PRODUCTS = {"MatMul", "MatMulIntegerToFloat"}
_BY_ROW = _PRODUCTS | {
    *("Abs", "Add", "FastGelu", "Gelu", "LayerNormalization", "Max", "Mul", "QuantizeLinear"),
    *("ReduceMax", "Relu", "Sum", "Tanh"),
}
"""Operators that a layer applies to each sub-token alone."""

_LENGTH_FIRST, _SIZE_FIRST = [0, 2, 1, 3], [0, 2, 3, 1]
"""Permutations of (rows, length, heads, size) to (rows, heads, length, size), which is its own inverse, and
to (rows, heads, size, length)."""

# `real` is the position of each row of the table in the flattened batch, `place` the table's row for each
# position of the batch; at padding `place` is any valid row.
_PLACES = """
places (int64[rows, length] mask) => (int64[tokens] real, int64[rows, length] place) {
    flat = Reshape (mask, all)
    found = NonZero (flat)
    real = Reshape (found, all)
    count = CumSum (flat, zero)
    before = Sub (count, one)
    inside = Max (before, zero)
    shape = Shape (mask)
    place = Reshape (inside, shape)
    length = Shape <start = 1, end = 2> (mask)
    row = Div (real, length)
    of_row = Unsqueeze (place, one_axis)
    of_token = Unsqueeze (real, one_axis)
    row_of_token = Unsqueeze (row, one_axis)
}
"""

# `split` looks up the vectors of attention heads for (rows, heads, length), `join` for (sub-tokens, heads).
_HEADS = """
heads (int64[rows, one, length] of_row) => (int64[rows, heads, length] split, int64[tokens, heads] join) {
    times_heads = Mul (of_row, heads)
    split = Add (times_heads, heads_down)
    rows_before = Mul (row_of_token, other_heads)
    heads_before = Add (rows_before, heads_across)
    moved = Mul (heads_before, length)
    join = Add (of_token, moved)
}
"""


def pack_rows(model: ModelProto) -> bool:
    """Pack a graph in place, if it has attention of the form that `layers` writes.

    Inputs and outputs keep their shapes; the logits of padding are copies of another sub-token's.
    Operators that this module does not know get padded rows.

    Returns:
        Whether the graph was packed; otherwise it is unchanged.
    """
    packer = _Packer(model)
    nodes = list(packer.nodes())
    if not packer.heads:
        return False
    model.graph.initializer.extend(packer.constants.values())
    del model.graph.value_info[:]  # the shapes that tensors had before
    set_nodes(model, nodes)
    return True


class _Packer:
    """Rewrites the nodes of a graph, in order.

    Attributes:
        heads: the numbers of attention heads whose look-ups exist.
        constants: the constants of the new nodes, by name.
    """

    def __init__(self, model: ModelProto):
        self._graph = model.graph
        self._values = {tensor.name: tensor for tensor in model.graph.initializer}
        self._users: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in taken(node):
                self._users.setdefault(name, []).append(node)
        # These hold names of tensors, by shape; the values of two of them are (heads, size).
        self._packed: set[str] = set()  # (sub-tokens, columns)
        self._flat: dict[str, tuple[int, int]] = {}  # (sub-tokens * heads, size)
        self._attention: dict[str, tuple[int, int]] = {}  # (rows, heads, …, …)
        self._joined: set[str] = set()  # (sub-tokens, heads, size)
        self._shapes: set[str] = set()  # shapes of packed tensors
        self._padded: dict[str, str] = {}  # from packed tensors to their copies as padded rows
        self.heads: set[int] = set()
        self.constants: dict[str, TensorProto] = {}

    def nodes(self) -> Iterator[NodeProto]:
        """Yield the nodes of the packed graph; none if the graph cannot be packed."""
        entry = next((node for node in self._graph.node if node.op_type == "LayerNormalization"), None)
        if (
            entry is None
            or MASK not in {item.name for item in self._graph.input}
            or not self._is_last_axis(entry)
            or any(len(list(taken(node))) > len(node.input) for node in self._graph.node)  # has branches
        ):
            return
        for name, value in (("all", [-1]), ("zero", 0), ("one", 1), ("one_axis", [1])):
            self._constant(name, value)
        yield from self._from_text(_PLACES, {"mask": MASK})
        outputs = {output.name for output in self._graph.output}
        for node in self._graph.node:
            packed = [*self._enter(node)] if node is entry else [*self._written(node)]
            for name in outputs & self._packed & set(node.output):
                self._packed.remove(name)
                table = NodeProto()
                table.CopyFrom(packed.pop())
                table.output[:] = [f"{name}/packed"]
                rows = helper.make_node("Gather", [f"{name}/packed", "packing/place"], [name], axis=0)
                packed += [table, rows]
            yield from packed

    def _written(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the nodes that replace one node of the source."""
        first, output = (*node.input, "")[0], node.output[0]
        if self._is_by_row(node):
            self._packed.add(output)
            yield node
        elif node.op_type == "Shape" and first in self._packed and self._is_filling(node):
            self._shapes.add(output)
            yield node
        elif node.op_type == "ConstantOfShape" and first in self._shapes:
            self._packed.add(output)
            yield node
        elif node.op_type == "Reshape" and first in self._packed and self._is_split(node):
            heads, size = self._target(node)[2:]
            self._flat[output] = heads, size
            yield helper.make_node("Reshape", [first, self._constant(f"size_{size}", [-1, size])], [output])
        elif node.op_type == "Transpose" and first in self._flat:
            yield from self._split(node, *self._flat[first])
        elif node.op_type == "Transpose" and first in self._attention and self._is_join(node):
            heads, size = self._attention[first]
            vectors = f"{output}/vectors"
            shape = self._constant(f"size_{size}", [-1, size])
            yield helper.make_node("Reshape", [first, shape], [vectors])
            yield helper.make_node("Gather", [vectors, f"packing/{heads}/join"], [output], axis=0)
            self._joined.add(output)
        elif node.op_type == "Reshape" and first in self._joined:
            width = self._target(node)[-1]
            shape = self._constant(f"width_{width}", [-1, width])
            yield helper.make_node("Reshape", [first, shape], [output])
            self._packed.add(output)
        else:
            yield from self._unknown(node)

    def _enter(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the first layer norm, with nodes before it that pack its input."""
        x, *others = node.input
        width = self._values[others[0]].dims[0]
        shape = self._constant(f"width_{width}", [-1, width])
        yield helper.make_node("Reshape", [x, shape], [f"{x}/flat"])
        yield helper.make_node("Gather", [f"{x}/flat", "packing/real"], [f"{x}/packed"], axis=0)
        yield _with_inputs(node, [f"{x}/packed", *others])
        self._packed.add(node.output[0])

    def _split(self, node: NodeProto, heads: int, size: int) -> Iterator[NodeProto]:
        """Yield the look-up of (rows, heads, length, size), transposed if the source asks for that."""
        (vectors,), (output,) = node.input, node.output
        if heads not in self.heads:
            self.heads.add(heads)
            yield from self._of_heads(heads)
        turned = _permutation(node) == _SIZE_FIRST
        rows = f"{output}/rows" if turned else output
        yield helper.make_node("Gather", [vectors, f"packing/{heads}/split"], [rows], axis=0)
        if turned:
            yield helper.make_node("Transpose", [rows], [output], perm=[0, 1, 3, 2])
        self._attention[output] = heads, size

    def _of_heads(self, heads: int) -> Iterator[NodeProto]:
        """Yield the nodes that compute `split` and `join` for a number of heads."""
        down = np.arange(heads).reshape(1, heads, 1)
        for name, value in (
            ("heads", heads),
            ("other_heads", heads - 1),
            ("heads_down", down),
            ("heads_across", down[:, :, 0]),
        ):
            self._constant(f"{heads}/{name}", value)
        shared = ("of_row", "of_token", "row_of_token", "length")
        yield from self._from_text(_HEADS, {name: f"packing/{name}" for name in shared}, f"{heads}/")

    def _unknown(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield a node that this module does not know, with padded rows in place of packed tensors."""
        for name in dict.fromkeys(node.input):
            if name in self._packed and name not in self._padded:
                self._padded[name] = f"{name}/padded"
                yield helper.make_node("Gather", [name, "packing/place"], [f"{name}/padded"], axis=0)
        for name in node.input:
            if name in self._attention:
                self._attention.update(dict.fromkeys(node.output, self._attention[name]))
        yield _with_inputs(node, [self._padded.get(name, name) for name in node.input])

    def _is_by_row(self, node: NodeProto) -> bool:
        """Say whether a node takes packed tensors and computes each sub-token alone."""
        constants = [self._values[name] for name in node.input if name in self._values]
        return (
            node.op_type in _BY_ROW
            and len(node.output) == 1
            and any(name in self._packed for name in node.input)
            and (node.input[0] in self._packed or node.op_type not in _PRODUCTS)
            and all(name in self._packed or name in self._values for name in node.input)
            and all(len(tensor.dims) <= 1 + (node.op_type in _PRODUCTS) for tensor in constants)
            and _attribute(node, "axis", -1) == -1
            and (node.op_type != "ReduceMax" or [numpy_helper.to_array(one) for one in constants] == [[-1]])
        )

    def _is_last_axis(self, entry: NodeProto) -> bool:
        """Say whether a layer norm is over the last axis, with a constant scale and one output."""
        constant = entry.input[1] in self._values and _attribute(entry, "axis", -1) == -1
        return constant and len(entry.output) == 1

    def _is_filling(self, shape: NodeProto) -> bool:
        """Say whether a shape only serves to make constant tensors for operators in `_BY_ROW`."""
        fillings = self._users.get(shape.output[0], [])
        return not shape.attribute and all(
            filling.op_type == "ConstantOfShape"
            and all(user.op_type in _BY_ROW for user in self._users.get(filling.output[0], []))
            for filling in fillings
        )

    def _is_split(self, node: NodeProto) -> bool:
        """Say whether a reshape splits sub-tokens into attention heads, before a transposition."""
        users = self._users.get(node.output[0], [])
        return (
            len(self._target(node)) == 4
            and [user.op_type for user in users] == ["Transpose"]
            and _permutation(users[0]) in (_LENGTH_FIRST, _SIZE_FIRST)
        )

    def _is_join(self, node: NodeProto) -> bool:
        """Say whether a transposition follows attention, before heads are joined again."""
        users = self._users.get(node.output[0], [])
        return (
            _permutation(node) == _LENGTH_FIRST
            and [user.op_type for user in users] == ["Reshape"]
            and len(self._target(users[0])) == 3
        )

    def _target(self, node: NodeProto) -> list[int]:
        """Return the shape of a reshape if it is constant and keeps rows and length, otherwise []."""
        if node.input[1] not in self._values:
            return []
        shape: list[int] = numpy_helper.to_array(self._values[node.input[1]]).tolist()
        return shape if shape[:2] == [0, 0] and all(size > 0 for size in shape[2:]) else []

    def _constant(self, name: str, value: object) -> str:
        """Add a constant of integers; return its name in the graph."""
        name = f"packing/{name}"
        self.constants[name] = numpy_helper.from_array(np.array(value, np.int64), name)
        return name

    def _from_text(self, text: str, names: dict[str, str], part: str = "") -> Iterator[NodeProto]:
        """Yield the nodes of a graph in ONNX's text form; `names` maps its tensors to this graph's."""
        for node in onnx.parser.parse_graph(text).node:
            for values in (node.input, node.output):
                values[:] = [names.get(name, f"packing/{part}{name}") for name in values]
            yield node


def _permutation(node: NodeProto) -> list[int]:
    return list(_attribute(node, "perm", []))


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = [helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return found[0] if found else default


def _with_inputs(node: NodeProto, inputs: Sequence[str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = inputs
    return copy
