"""Fusion: an fp32 graph of a BERT-like transformer as a fused fp16 graph for the CUDA provider."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from app.engine.runtimes.runtime import Arrays
from app.engine.runtimes.session import CPU, OnnxSession

LARGEST_DIFFERENCE = 1e-3
"""How far a logit of the fused graph, while it is still fp32, may be from the source's."""

_FILTERED = -10_000.0
"""What an attention score of a masked sub-token becomes: low enough, and half precision has room for it."""

_COUNTED = {
    "attention": "Attention",
    "skip_layer_norm": "SkipLayerNormalization",
    "embed_layer_norm": "EmbedLayerNormalization",
    "bias_gelu": "BiasGelu",
}


def fuse_fp16(source: Path, target: Path, heads: int, width: int, layers: int) -> dict[str, int]:
    """Write a copy of a graph with fused operators and half-precision weights.

    Inputs stay int64 and the logits float32. The mask goes into attention as it is, so that padding
    may stand on any side and holes stay holes. The fused graph's logits are compared with the source's
    on the CPU while its numbers are still float32. What is written runs on a GPU alone and was run on
    none here: whoever publishes it measures it on one, through the serving engine.

    Args:
        heads, width, layers: attention heads, columns of the hidden states, and attention layers.

    Returns:
        How many operators were fused: `attention`, `skip_layer_norm`, `embed_layer_norm`, `bias_gelu`.

    Raises:
        ValueError: some attention layer was not fused (which the optimizer passes over in silence), or
            the fused graph computes something else.
    """
    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    fused = optimize_model(
        str(source),
        model_type="bert",
        num_heads=heads,
        hidden_size=width,
        optimization_options=options,
        opt_level=0,
        use_gpu=False,
    )
    found = fused.get_fused_operator_statistics()
    counts = {name: int(found.get(operator, 0)) for name, operator in _COUNTED.items()}
    if counts["attention"] != layers:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"{source}: {counts['attention']} of {layers} attention layers were fused ({listed}); export "
            "the checkpoint with optimum, and check heads and width"
        )
    _bound_filter(fused.model)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fp32, half = Path(folder) / "fused.onnx", Path(folder) / "half.onnx"
        onnx.save(fused.model, str(fp32))
        difference = largest_difference(source, fp32)
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"{source}: logits of the fused graph differ by {difference:.2g}, more than "
                f"{LARGEST_DIFFERENCE:g}; serve the fp32 graph instead"
            )
        fused.convert_float_to_float16(keep_io_types=True)
        onnx.save(fused.model, str(half))
        half.replace(target)
    return counts


def _bound_filter(model: onnx.ModelProto) -> None:
    """Mask attention with a number that half precision has: float32's lowest would be -inf there, and a
    row that is masked throughout NaN."""
    for node in model.graph.node:
        if node.op_type == "Attention":
            kept = [attribute for attribute in node.attribute if attribute.name != "mask_filter_value"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("mask_filter_value", _FILTERED)])


def largest_difference(source: Path, fused: Path) -> float:
    """The largest difference of a logit between two graphs, where the mask is 1."""
    sessions = [OnnxSession(path, CPU) for path in (source, fused)]
    if sessions[0].inputs != sessions[1].inputs:
        raise ValueError(f"{source}: fusion changed its inputs to {', '.join(sessions[1].inputs)}")
    rows = _rows_of(onnx.load(str(source)))
    worst = 0.0
    for mask in _masks():
        rng = np.random.default_rng(0)
        batch = _batch(sessions[0].inputs, mask, rows, rng)
        first, second = (session.run(batch) for session in sessions)
        worst = max(worst, float(np.abs(first - second)[mask == 1].max()))
    return worst


def _masks() -> list[Any]:
    """Rows that are full, padded on the right, padded on the left, and with holes."""
    rng = np.random.default_rng(1)
    right = (np.arange(16) < np.array([[16], [9], [1]])).astype(np.int64)
    holes = (rng.random((4, 16)) < 0.6).astype(np.int64)
    holes[:, 3] = 1  # at least one sub-token a row
    return [right, right[:, ::-1].copy(), holes]


def _batch(inputs: tuple[str, ...], mask: Any, rows: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    """Random ids below the sizes of the tables they are looked up in."""
    return {
        name: mask if name == "attention_mask" else rng.integers(0, rows.get(name, 1), mask.shape)
        for name in inputs
    }


def _rows_of(model: onnx.ModelProto) -> dict[str, int]:
    """The rows of the table that each input is looked up in."""
    tables = {table.name: int(table.dims[0]) for table in model.graph.initializer if len(table.dims) == 2}
    return {
        node.input[1]: tables[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in tables
    }
