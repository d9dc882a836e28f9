"""ONNX export: a Hugging Face token-classification checkpoint as one fp32 graph, with optimum."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from optimum.exporters.onnx import main_export
from transformers import AutoModelForTokenClassification

from app.engine.session import OnnxSession
from app.engine.words import SHAPES

LARGEST_DIFFERENCE = 1e-3
"""Logits of the graph may differ from PyTorch's by this."""


def export_onnx(checkpoint: str, target: Path) -> dict[str, float]:
    """Write `target` (fp32) and compare its logits with PyTorch's on random batches.

    Args:
        checkpoint: a folder or hub id.

    Returns:
        `parity_max_abs`, the largest difference of a logit that was seen.

    Raises:
        ValueError: the logits differ by more than `LARGEST_DIFFERENCE`, or the architecture
            cannot be exported.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            main_export(
                checkpoint,
                output=folder,
                task="token-classification",
                framework="pt",
                no_post_process=True,
                do_validation=False,
            )
        except (KeyError, NotImplementedError, ValueError) as error:
            raise ValueError(f"{checkpoint}: optimum cannot export it: {error}") from error
        shutil.move(Path(folder) / "model.onnx", target)
    difference = _parity(checkpoint, target)
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"{checkpoint}: logits of the ONNX graph differ from PyTorch's by {difference:.2g}, "
            f"more than {LARGEST_DIFFERENCE:g}"
        )
    return {"parity_max_abs": difference}


def input_names(path: Path) -> tuple[str, ...]:
    """The inputs of an ONNX file."""
    return tuple(item.name for item in onnx.load(str(path), load_external_data=False).graph.input)


def _parity(checkpoint: str, path: Path) -> float:
    network = AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    session = OnnxSession(path)
    rng = np.random.default_rng(0)
    config = network.config
    worst = 0.0
    for rows, length in ((1, 7), (4, 33)):
        lengths = rng.integers(2, length + 1, rows)
        lengths[0] = length
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(5, config.vocab_size, (rows, length)) * mask
        ids += (1 - mask) * (config.pad_token_id or 0)
        types = rng.integers(0, min(SHAPES, getattr(config, "type_vocab_size", 1) or 1), (rows, length))
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        batch = {name: arrays[name].astype(np.int64) for name in session.inputs}
        with torch.inference_mode():
            want = network(**{k: torch.from_numpy(v) for k, v in batch.items()}).logits.numpy()
        worst = max(worst, float(np.abs(session.run(batch) - want)[mask == 1].max()))
    return worst
