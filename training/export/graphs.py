"""This module exports a checkpoint as graphs of each precision, and checks their logits."""

import json
from pathlib import Path
from typing import Any

from training.export.fusion import fuse_fp16
from training.export.onnx_file import export_onnx
from training.export.quantize import quantize_by_row
from training.models import load_tagger
from training.models.transformer import TransformerTagger
from training.progress import Say

REPORT = "export.json"
"""The file that holds the architecture, the number of parameters and the largest difference of a logit."""


def export_graphs(name: str, checkpoint: Path, folder: Path, fp16: bool, say: Say) -> None:
    """Fill a folder with `model.<precision>.onnx`, `tokenizer.json` and `export.json`.

    Args:
        name: the network's name in messages.
        fp16: make a fused fp16 graph for GPUs too.

    Raises:
        ValueError: a graph's logits differ from PyTorch's, or the network of an fp16 export is not a
            transformer.
    """
    fp32 = folder / "model.fp32.onnx"
    report: dict[str, Any] = dict(export_onnx(str(checkpoint), fp32))
    say(f"{name} fp32: logits within {report['parity_max_abs']:.1e} of PyTorch's")
    quantize_by_row(fp32, folder / "model.int8.onnx")
    tagger = load_tagger(checkpoint)
    report["architecture"] = tagger.architecture
    report["parameters"] = sum(p.numel() for p in tagger.parameters())
    report["word_shapes"] = not isinstance(tagger, TransformerTagger) or tagger.takes_shapes
    if fp16:
        if not isinstance(tagger, TransformerTagger):
            raise ValueError(f"{name}: export.fp16 is for Transformers, this is a {tagger.architecture}")
        config = tagger.network.config
        report["fused"] = fuse_fp16(
            fp32,
            folder / "model.fp16.onnx",
            config.num_attention_heads,
            config.hidden_size,
            config.num_hidden_layers,
        )
        say(f"{name} fp16: fused {report['fused']}")
    (folder / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    (folder / REPORT).write_text(json.dumps(report), encoding="utf-8")


def read_report(folder: Path) -> dict[str, Any]:
    """Read `export.json` of a folder that `export_graphs` filled."""
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return report
