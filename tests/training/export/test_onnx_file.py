from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    CanineConfig,
    CanineForTokenClassification,
)

from app.engine.session import OnnxSession
from tests.training.export.checkpoints import POSITIONS, write_checkpoint
from training.export.onnx_file import export_onnx, input_names, keep_columns


def batch(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(1).integers(5, 80, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def test_the_graph_computes_what_pytorch_does_at_any_length(bert: Path, tmp_path: Path) -> None:
    report = export_onnx(str(bert), tmp_path / "model.onnx", longest=POSITIONS)
    assert report["parity_max_abs"] < 1e-4
    session = OnnxSession(tmp_path / "model.onnx")
    network = AutoModelForTokenClassification.from_pretrained(bert).eval()
    for rows, length in ((1, 2), (3, POSITIONS)):
        arrays = batch(rows, length)
        with torch.inference_mode():
            want = network(**{name: torch.from_numpy(a) for name, a in arrays.items()}).logits.numpy()
        np.testing.assert_allclose(session.run(arrays), want, atol=1e-4)


def test_inputs_are_those_of_the_network(bert: Path, tmp_path: Path) -> None:
    export_onnx(str(bert), tmp_path / "bert.onnx")
    assert input_names(tmp_path / "bert.onnx") == ("input_ids", "attention_mask", "token_type_ids")
    export_onnx(str(write_checkpoint(tmp_path / "distil", "distilbert")), tmp_path / "distil.onnx")
    assert input_names(tmp_path / "distil.onnx") == ("input_ids", "attention_mask")


def test_columns_are_kept_in_the_order_given(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(str(bert), path)
    arrays = batch(2, 9)
    before = OnnxSession(path).run(arrays)
    keep_columns(path, (3, 0))
    np.testing.assert_array_equal(OnnxSession(path).run(arrays), before[..., [3, 0]])


def test_a_checkpoint_without_a_head_is_refused(bert: Path, tmp_path: Path) -> None:
    AutoModelForTokenClassification.from_pretrained(bert).bert.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"no weights for classifier\.bias, classifier\.weight"):
        export_onnx(str(tmp_path / "encoder"), tmp_path / "model.onnx")


def test_what_optimum_does_not_know_is_refused(tmp_path: Path) -> None:
    config = CanineConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    CanineForTokenClassification(config).save_pretrained(tmp_path / "canine")
    with pytest.raises(ValueError, match="canine: optimum cannot export it"):
        export_onnx(str(tmp_path / "canine"), tmp_path / "model.onnx")


def test_a_checkpoint_without_weights_is_refused(bert: Path, tmp_path: Path) -> None:
    AutoConfig.from_pretrained(bert).save_pretrained(tmp_path / "weightless")
    with pytest.raises(ValueError, match="weightless: optimum cannot export it"):
        export_onnx(str(tmp_path / "weightless"), tmp_path / "model.onnx")
