"""ONNX export: a Hugging Face token-classification checkpoint as one fp32 graph, with optimum."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from optimum.exporters.onnx import main_export
from transformers import AutoModelForTokenClassification

from app.engine.session import OnnxSession
from app.engine.words import SHAPES

LARGEST_DIFFERENCE = 1e-3
"""Logits of the graph may differ from PyTorch's by this."""


def export_onnx(checkpoint: str, target: Path, longest: int = 33) -> dict[str, float]:
    """Write `target` (fp32) and compare its logits with PyTorch's on random batches.

    Args:
        checkpoint: a folder or hub id.
        longest: sub-tokens of the longest row that is compared.

    Returns:
        `parity_max_abs`, the largest difference of a logit that was seen.

    Raises:
        ValueError: the logits differ by more than `LARGEST_DIFFERENCE`, the architecture cannot
            be exported, or the checkpoint lacks weights.
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
        except (KeyError, NotImplementedError, OSError, ValueError) as error:
            raise ValueError(f"{checkpoint}: optimum cannot export it: {error}") from error
        if (Path(folder) / "model.onnx_data").exists():
            raise ValueError(
                f"{checkpoint}: its weights exceed the 2 GB of one ONNX file, and a version's graph is "
                "one file; take a smaller checkpoint, or distil this one"
            )
        shutil.move(Path(folder) / "model.onnx", target)
    difference = _parity(checkpoint, target, longest)
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"{checkpoint}: logits of the ONNX graph differ from PyTorch's by {difference:.2g}, "
            f"more than {LARGEST_DIFFERENCE:g}"
        )
    return {"parity_max_abs": difference}


def input_names(path: Path) -> tuple[str, ...]:
    """The inputs of an ONNX file."""
    return tuple(item.name for item in onnx.load(str(path), load_external_data=False).graph.input)


def keep_columns(path: Path, columns: Sequence[int]) -> None:
    """Cut the logits of an ONNX file down to these columns, in this order."""
    model = onnx.load(str(path))
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "all_logits" if name == "logits" else name
    graph.initializer.append(numpy_helper.from_array(np.array(columns, np.int64), "columns"))
    graph.node.append(helper.make_node("Gather", ["all_logits", "columns"], ["logits"], axis=2))
    (output,) = graph.output
    output.type.tensor_type.shape.dim[2].dim_value = len(columns)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _parity(checkpoint: str, path: Path, longest: int) -> float:
    network, loading = AutoModelForTokenClassification.from_pretrained(checkpoint, output_loading_info=True)
    if missing := loading["missing_keys"]:
        raise ValueError(
            f"{checkpoint}: has no weights for {', '.join(sorted(missing))}; it was not fine-tuned for "
            "token classification"
        )
    network.eval()
    session = OnnxSession(path)
    if unknown := set(session.inputs) - {"input_ids", "attention_mask", "token_type_ids"}:
        raise ValueError(f"{checkpoint}: the network has inputs {sorted(unknown)}, which nothing can feed")
    rng = np.random.default_rng(0)
    config = network.config
    worst = 0.0
    for rows, length in ((1, min(7, longest)), (4, min(33, longest)), (2, longest)):
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
