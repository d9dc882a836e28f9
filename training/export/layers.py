"""This module rewrites a transformer's fp32 graph into a form that ONNX Runtime runs fast on a CPU.

The result computes the same with standard operators; nodes that are not recognised stay unchanged.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx.parser
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

OPSET = 21
"""The ONNX version of the result; operators of a tagger mean the same as in version 18, the export's."""

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_PLAIN = {"num_heads", "mask_filter_value", "scale"}
"""The attributes of `Attention` that `_ATTENTION` can express."""

# Query, key and value are three products, because splitting a joint one copies it. The query's weights
# include the scale of the scores. The key has no bias, because softmax ignores what it adds to the scores.
_ATTENTION = """
attention (float[rows, length, width] x, float[rows, 1, length, length] filter) => (float context) {
    query_product = MatMul (x, query_weights)
    query_whole = Add (query_product, query_bias)
    query_heads = Reshape (query_whole, to_heads)
    query = Transpose <perm = [0, 2, 1, 3]> (query_heads)
    key_product = MatMul (x, key_weights)
    key_heads = Reshape (key_product, to_heads)
    key = Transpose <perm = [0, 2, 3, 1]> (key_heads)
    value_product = MatMul (x, value_weights)
    value_whole = Add (value_product, value_bias)
    value_heads = Reshape (value_whole, to_heads)
    value = Transpose <perm = [0, 2, 1, 3]> (value_heads)
    scores = MatMul (query, key)
    filtered = Add (scores, filter)
    shares = Softmax <axis = -1> (filtered)
    context_heads = MatMul (shares, value)
    context_rows = Transpose <perm = [0, 2, 1, 3]> (context_heads)
    context = Reshape (context_rows, to_width)
}
"""

# The filter is added to the scores: 0 for real sub-tokens, a very low number for padding. It is expanded
# over the queries once, so that each layer adds it by reading memory in order.
_FILTER = """
filter (int32[rows, length] mask) => (float filter) {
    present = Cast <to = 1> (mask)
    missing = Sub (one, present)
    lowered = Mul (missing, lowest)
    of_keys = Unsqueeze (lowered, heads_and_queries)
    length = Shape <start = 1, end = 2> (mask)
    queries = Concat <axis = 0> (single, single, length, single)
    filter = Expand (of_keys, queries)
}
"""


def lean_layers(source: ModelProto) -> ModelProto:
    """Return a copy of a graph with attention, residuals and GELU in their fastest form.

    ONNX Runtime's optimizer for transformers finds and merges them; the merged operators are replaced by

    - attention in few operators: shapes are constants, the query's weights include the scale of the
      scores, and the mask is turned into a filter once, not in each layer;
    - a `Sum` for a residual, because the runtime would merge an `Add` and a `LayerNormalization` into a
      `SkipLayerNormalization`, which is slower than the two;
    - one standard operator for GELU, which the quantization recognises (its output is never below -0.17).
    """
    model = _merged(source)
    graph = model.graph
    writer = _Writer(model)
    nodes = [new for node in graph.node for new in writer.written(node)]
    graph.initializer.extend(writer.constants.values())
    set_nodes(model, in_order(nodes))
    declare(model, OPSET)
    return model


def _merged(source: ModelProto) -> ModelProto:
    """Return a copy in which ONNX Runtime's optimizer merged layers into its custom operators."""
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)  # shape (rows, length); padding on either side
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = options.enable_bias_skip_layer_norm = False
    copy = ModelProto()
    copy.CopyFrom(source)
    bert = BertOnnxModel(copy)
    bert.optimize(options)
    model: ModelProto = bert.model
    return model


def _is_plain(attention: NodeProto) -> bool:
    """Say whether `_ATTENTION` can express a node: input, weights, bias, mask and known attributes."""
    return len(attention.input) == 4 and {item.name for item in attention.attribute} <= _PLAIN


class _Writer:
    """Replaces the operators that the optimizer merged.

    Attributes:
        constants: the constants of the new nodes, by name.
    """

    def __init__(self, model: ModelProto):
        self._graph = model.graph
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._filters: set[str] = set()
        self.constants: dict[str, TensorProto] = {}

    def written(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the nodes that replace one node of the source."""
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "SkipLayerNormalization":
            residual, x, *scale_and_shift = node.input
            normal, *rest = node.output
            total = rest[2] if len(rest) > 2 else f"{normal}/sum"  # other nodes use the sum too
            yield helper.make_node("Sum", [residual, x], [total])
            yield helper.make_node("LayerNormalization", [total, *scale_and_shift], [normal], **attributes)
        elif node.op_type == "Gelu" and node.domain == MICROSOFT:
            yield helper.make_node("Gelu", node.input, node.output)
        elif node.op_type == "Attention" and _is_plain(node):
            yield from self._attention(node, attributes)
        else:
            yield node

    def _attention(self, node: NodeProto, attributes: Mapping[str, float]) -> Iterator[NodeProto]:
        x, weights_name, bias_name, mask = node.input
        (context,) = node.output
        weights, bias = (numpy_helper.to_array(self._weights[name]) for name in (weights_name, bias_name))
        query_weights, key_weights, value_weights = np.split(weights, 3, axis=1)
        query_bias, _, value_bias = np.split(bias, 3)
        width, heads = len(query_bias), int(attributes["num_heads"])
        factor = np.float32(attributes.get("scale") or (width // heads) ** -0.5)
        lowest = attributes["mask_filter_value"]
        filtering = f"{mask}/filter{lowest:g}"
        if filtering not in self._filters:
            self._filters.add(filtering)
            constants: dict[str, npt.NDArray[np.generic]] = {
                "one": np.array(1, np.float32),
                "lowest": np.array(lowest, np.float32),
                "heads_and_queries": np.array([1, 2]),
                "single": np.array([1]),
            }
            yield from self._from_text(_FILTER, {"mask": mask, "filter": filtering}, constants)
        constants = {
            "query_weights": query_weights * factor,
            "query_bias": query_bias * factor,
            "key_weights": key_weights,
            "value_weights": value_weights,
            "value_bias": value_bias,
            "to_heads": np.array([0, 0, heads, width // heads]),
            "to_width": np.array([0, 0, width]),
        }
        self._graph.value_info.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "length", columns])
            for name, columns in ((x, len(weights)), (context, width))
        )
        names = {"x": x, "filter": filtering, "context": context}
        yield from self._from_text(_ATTENTION, names, constants)

    def _from_text(
        self, text: str, names: Mapping[str, str], constants: Mapping[str, npt.NDArray[np.generic]]
    ) -> Iterator[NodeProto]:
        """Yield the nodes of a graph in ONNX's text form.

        Args:
            names: maps its inputs, and last its output, to tensor names of this graph.
        """
        *_, output = names.values()
        for name, values in constants.items():
            self.constants[f"{output}/{name}"] = numpy_helper.from_array(values, f"{output}/{name}")
        for node in onnx.parser.parse_graph(text).node:
            for values in (node.input, node.output):
                values[:] = [names.get(name, f"{output}/{name}") for name in values]
            yield node


def set_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Replace a graph's nodes, and drop the constants that no node takes."""
    graph = model.graph
    used = {name for node in nodes for name in taken(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def declare(model: ModelProto, opset: int) -> None:
    """Declare that a graph uses at least this version of ONNX, and ONNX Runtime's operators."""
    for item in model.opset_import:
        if item.domain == "":
            item.version = max(item.version, opset)
    if all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    model.ir_version = max(model.ir_version, 10)  # the first that allows opset 21


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Sort the nodes so that each follows the nodes whose outputs it takes.

    ONNX Runtime's sort ignores tensors that the branches of an `If` (in DeBERTa) take from outside.
    """
    makers = {output: node for node in nodes for output in node.output}
    placed = {""}  # the name of an omitted input or output
    result: list[NodeProto] = []

    def place(node: NodeProto) -> None:
        if placed.issuperset(node.output):
            return
        for name in taken(node):
            if name in makers and name not in placed:
                place(makers[name])
        placed.update(node.output)
        result.append(node)

    for node in nodes:
        place(node)
    return result


def taken(node: NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node takes, also inside its branches."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from taken(inner)
