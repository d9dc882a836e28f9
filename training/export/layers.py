"""Layers: a transformer's fp32 graph in the form that ONNX Runtime's CPU provider runs fastest.

Standard operators come out, which compute the same; what is not recognised stays as it is.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx.parser
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

OPSET = 21
"""The version of ONNX that is written. No operator of a tagger changed its meaning between 18 and this."""

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_PLAIN = {"num_heads", "mask_filter_value", "scale"}
"""The attributes of an attention layer that can be written out as below."""

# There are three products, not one that is split, because splitting copies and one more axis slows each
# transposition. The query's weights hold the scores' factor. A bias of the key would add the same to all
# scores of a query, which changes no share, so there is none.
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

# The filter is added to scores: it is zero, or so low that no share is left. It is spread over the queries
# once, so that adding it to a layer's scores reads memory in order.
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
    """A copy of a graph with attention, residuals and GELU in their quickest form.

    ONNX Runtime's optimizer for transformers finds them; what it merged is written out again:

    - attention in few operators: shapes are constants, the scores' factor is in the query's weights, and
      what the mask adds is computed once, not in each layer;
    - a residual as a `Sum`: of an `Add` and a `LayerNormalization` the runtime would make one
      `SkipLayerNormalization`, which takes longer than the two;
    - GELU as one standard operator, so that who quantizes sees that it gives next to nothing negative.
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
    """A copy in which ONNX Runtime's optimizer merged layers to operators of its own."""
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)  # of shape (rows, length), whatever side padding stands on
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = options.enable_bias_skip_layer_norm = False
    copy = ModelProto()
    copy.CopyFrom(source)
    bert = BertOnnxModel(copy)
    bert.optimize(options)
    model: ModelProto = bert.model
    return model


def _is_plain(attention: NodeProto) -> bool:
    """Whether it has an input, weights, a bias and a mask, and asks for nothing unknown."""
    return len(attention.input) == 4 and {item.name for item in attention.attribute} <= _PLAIN


class _Writer:
    """Writes out what the optimizer merged.

    Attributes:
        constants: what the new nodes take, by name.
    """

    def __init__(self, model: ModelProto):
        self._graph = model.graph
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._filters: set[str] = set()
        self.constants: dict[str, TensorProto] = {}

    def written(self, node: NodeProto) -> Iterator[NodeProto]:
        """The nodes that stand for one node of the source."""
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "SkipLayerNormalization":
            residual, x, *scale_and_shift = node.input
            normal, *rest = node.output
            total = rest[2] if len(rest) > 2 else f"{normal}/sum"  # where others take the sum too
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
        """The nodes of a graph in ONNX's text form.

        Args:
            names: what its inputs and its output, which comes last, are called in this graph.
        """
        *_, output = names.values()
        for name, values in constants.items():
            self.constants[f"{output}/{name}"] = numpy_helper.from_array(values, f"{output}/{name}")
        for node in onnx.parser.parse_graph(text).node:
            for values in (node.input, node.output):
                values[:] = [names.get(name, f"{output}/{name}") for name in values]
            yield node


def set_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Give a graph these nodes, and drop constants that none takes."""
    graph = model.graph
    used = {name for node in nodes for name in taken(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def declare(model: ModelProto, opset: int) -> None:
    """Say that a graph is written in at least this version of ONNX, and with ONNX Runtime's operators."""
    for item in model.opset_import:
        if item.domain == "":
            item.version = max(item.version, opset)
    if all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    model.ir_version = max(model.ir_version, 10)  # the first that knows it


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes, each after those whose outputs it takes.

    ONNX Runtime's tools overlook what the branches of an `If` (DeBERTa has some) take from the graph
    around them.
    """
    makers = {output: node for node in nodes for output in node.output}
    placed = {""}  # an input or output that is left out
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
    """Names of the tensors that a node takes, inside its branches too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from taken(inner)
