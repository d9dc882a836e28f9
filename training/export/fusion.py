"""This module turns the fp32 graph of a BERT-like transformer into a fused fp16 graph for CUDA."""

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
"""The largest difference allowed between a logit of the source and of the fused graph in fp32."""

_FILTERED = -10_000.0
"""The attention score of a masked sub-token: its softmax is 0, and fp16 can represent the number."""

_COUNTED = {
    "attention": "Attention",
    "skip_layer_norm": "SkipLayerNormalization",
    "embed_layer_norm": "EmbedLayerNormalization",
    "bias_gelu": "BiasGelu",
}


def fuse_fp16(source: Path, target: Path, heads: int, width: int, layers: int) -> dict[str, int]:
    """Write a copy of a graph with fused operators and fp16 weights, which runs on GPUs only.

    Inputs stay int64 and logits float32. Attention takes the mask unchanged, so that padding may stand on
    either side and the mask may have holes. The fused graph is compared with the source on the CPU before
    its weights become fp16; measure the fp16 graph on a GPU before you publish it.

    Args:
        heads, width, layers: attention heads, columns of the hidden states, and attention layers.

    Returns:
        The number of fused operators: `attention`, `skip_layer_norm`, `embed_layer_norm`, `bias_gelu`.

    Raises:
        ValueError: an attention layer was not fused (the optimizer does not report this), or the fused
            graph's logits differ by more than `LARGEST_DIFFERENCE`.
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
    """Mask with a number in fp16's range: float32's lowest becomes -inf, and a fully masked row NaN."""
    for node in model.graph.node:
        if node.op_type == "Attention":
            kept = [attribute for attribute in node.attribute if attribute.name != "mask_filter_value"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("mask_filter_value", _FILTERED)])


def largest_difference(source: Path, fused: Path) -> float:
    """Return the largest difference of a logit between two graphs, where the mask is 1.

    Raises:
        ValueError: the graphs have different inputs.
    """
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
    """Return masks, shape (rows, 16): padded on the right, padded on the left, and with holes."""
    rng = np.random.default_rng(1)
    right = (np.arange(16) < np.array([[16], [9], [1]])).astype(np.int64)
    holes = (rng.random((4, 16)) < 0.6).astype(np.int64)
    holes[:, 3] = 1  # each row keeps at least one sub-token
    return [right, right[:, ::-1].copy(), holes]


def _batch(inputs: tuple[str, ...], mask: Any, rows: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    """Return random ids below the sizes of their embedding tables, with this mask."""
    return {
        name: mask if name == "attention_mask" else rng.integers(0, rows.get(name, 1), mask.shape)
        for name in inputs
    }


def _rows_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of rows of each input's embedding table."""
    tables = {table.name: int(table.dims[0]) for table in model.graph.initializer if len(table.dims) == 2}
    return {
        node.input[1]: tables[node.input[0]]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in tables
    }
