"""This module exports checkpoints as one fp32 ONNX graph: Hugging Face's by optimum, others by torch."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from optimum.exporters.onnx import main_export
from transformers import AutoModelForTokenClassification

from app.engine.runtimes.session import OnnxSession
from app.engine.text.words import SHAPES
from training.models import load_tagger
from training.models.tagger import CONFIG, Tagger

LARGEST_DIFFERENCE = 1e-3
"""The largest difference allowed between a logit of the graph and PyTorch's."""


def export_onnx(checkpoint: str, target: Path, longest: int = 33) -> dict[str, float]:
    """Write `target` (fp32) and compare its logits with PyTorch's on random batches.

    Args:
        checkpoint: a Hugging Face checkpoint, by folder or hub id, or a folder that `Tagger.save` wrote;
            the graph of a `Tagger` takes `input_ids`, `attention_mask` and `word_shape`.
        longest: the length of the longest compared row, in sub-tokens.

    Returns:
        `parity_max_abs`, the largest difference between two logits.

    Raises:
        ValueError: the logits differ by more than `LARGEST_DIFFERENCE`, the architecture cannot
            be exported, or the checkpoint lacks weights.
    """
    if (Path(checkpoint) / CONFIG).exists():
        tagger = load_tagger(Path(checkpoint))
        _export_tagger(tagger, target)
        reference = _tagger_reference(tagger)
    else:
        _export_with_optimum(checkpoint, target)
        reference = _checkpoint_reference(checkpoint)
    difference = _parity(checkpoint, reference, target, longest)
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"{checkpoint}: logits of the ONNX graph differ from PyTorch's by {difference:.2g}, "
            f"more than {LARGEST_DIFFERENCE:g}"
        )
    return {"parity_max_abs": difference}


def input_names(path: Path) -> tuple[str, ...]:
    """Return the names of the inputs of an ONNX file."""
    return tuple(item.name for item in onnx.load(str(path), load_external_data=False).graph.input)


def keep_columns(path: Path, columns: Sequence[int]) -> None:
    """Keep only these columns of the logits of an ONNX file, in this order."""
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


@dataclass(frozen=True)
class _Reference:
    """Holds a network in PyTorch, with which a graph is compared.

    Attributes:
        logits_of: computes the network's logits from the graph's inputs.
        largest: the exclusive upper bound of each input's values.
        padding: the id of padding.
    """

    logits_of: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    largest: Mapping[str, int]
    padding: int = 0


def _export_with_optimum(checkpoint: str, target: Path) -> None:
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


def _export_tagger(tagger: Tagger, target: Path) -> None:
    """Trace a network of this package with one row; the axes of rows and length stay dynamic."""
    names = ("input_ids", "attention_mask", "word_shape")
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript. `_parity` checks what this one warns about.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tagger,
            tuple(torch.ones((1, 5), dtype=torch.int64) for _ in names),
            str(target),
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in (*names, "logits")},
            opset_version=18,
            dynamo=False,
        )


def _tagger_reference(tagger: Tagger) -> _Reference:
    words, _ = tagger.tables()
    largest = {"input_ids": len(words), "attention_mask": 2, "word_shape": SHAPES}
    return _Reference(lambda batch: tagger(**batch), largest)


def _checkpoint_reference(checkpoint: str) -> _Reference:
    network, loading = AutoModelForTokenClassification.from_pretrained(checkpoint, output_loading_info=True)
    if missing := loading["missing_keys"]:
        raise ValueError(
            f"{checkpoint}: has no weights for {', '.join(sorted(missing))}; it was not fine-tuned for "
            "token classification"
        )
    network.eval()
    config = network.config
    types = min(SHAPES, getattr(config, "type_vocab_size", 1) or 1)
    largest = {"input_ids": config.vocab_size, "attention_mask": 2, "token_type_ids": types}
    return _Reference(lambda batch: network(**batch).logits, largest, config.pad_token_id or 0)


def _parity(checkpoint: str, reference: _Reference, path: Path, longest: int) -> float:
    """Return the largest difference between the logits of a graph and of its network."""
    session = OnnxSession(path)
    if unknown := set(session.inputs) - set(reference.largest):
        raise ValueError(f"{checkpoint}: the network has inputs {sorted(unknown)}, which nothing can feed")
    rng = np.random.default_rng(0)
    worst = 0.0
    for rows, length in ((3, 1), (1, min(7, longest)), (4, min(33, longest)), (2, longest)):
        lengths = rng.integers(1, length + 1, rows)
        lengths[0] = length
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        arrays = {
            name: rng.integers(0, largest, (rows, length)) for name, largest in reference.largest.items()
        }
        arrays["attention_mask"] = mask
        ids = rng.integers(5, reference.largest["input_ids"], (rows, length))
        arrays["input_ids"] = np.where(mask == 1, ids, reference.padding)
        batch = {name: arrays[name].astype(np.int64) for name in session.inputs}
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
            want = reference.logits_of(tensors).numpy()
        worst = max(worst, float(np.abs(session.run(batch) - want)[mask == 1].max()))
    return worst
