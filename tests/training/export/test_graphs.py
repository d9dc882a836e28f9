"""The graphs of one checkpoint, and the report on them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from app.engine.runtimes.session import OnnxSession
from tests.training.models.teachers import inputs, student, toy_teacher
from training.export.graphs import REPORT, export_graphs, read_report
from training.models import load_tagger
from training.models.transformer import TransformerTagger


@pytest.fixture(scope="module")
def checkpoints(one_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a CNN and of a Transformer, each as a training leaves it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    teacher = toy_teacher(folder)
    for tagger in (teacher, student("cnn", teacher)):
        tagger.save(folder / tagger.architecture)
        tokenizer = (folder / "encoder/tokenizer.json").read_bytes()
        (folder / tagger.architecture / "tokenizer.json").write_bytes(tokenizer)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs of the CNN, with what was said of them."""
    folder = tmp_path_factory.mktemp("exported")
    lines: list[str] = []
    export_graphs("toy", checkpoints / "cnn", folder, False, lines.append)
    (folder / "said").write_text("\n".join(lines))
    return folder


def test_each_precision_has_a_graph_and_all_have_one_tokenizer(checkpoints: Path, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        *("model.fp32.onnx", "model.int8.onnx", "tokenizer.json", REPORT, "said")
    }
    tokenizer = (checkpoints / "cnn/tokenizer.json").read_bytes()
    assert (exported / "tokenizer.json").read_bytes() == tokenizer


def test_the_report_is_of_the_network(checkpoints: Path, exported: Path) -> None:
    report = read_report(exported)
    assert report == json.loads((exported / REPORT).read_text())
    tagger = load_tagger(checkpoints / "cnn")
    assert report["parameters"] == sum(parameter.numel() for parameter in tagger.parameters())
    assert (report["architecture"], report["word_shapes"]) == ("cnn", True)
    assert report["parity_max_abs"] < 1e-4


def test_how_far_the_graph_is_from_the_network_is_said(exported: Path) -> None:
    said = re.fullmatch(r"toy fp32: logits within (\S+) of PyTorch's", (exported / "said").read_text())
    assert said
    assert float(said[1]) == pytest.approx(read_report(exported)["parity_max_abs"], rel=0.1)


def test_both_precisions_find_nearly_the_same(exported: Path) -> None:
    names = ("input_ids", "attention_mask", "word_shape")
    arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs([40, 40]), strict=True)}
    fp32, int8 = (OnnxSession(exported / f"model.{p}.onnx").run(arrays) for p in ("fp32", "int8"))
    assert not np.array_equal(fp32, int8)
    assert np.corrcoef(fp32.ravel(), int8.ravel())[0, 1] > 0.95


def test_a_transformer_has_a_fused_graph_if_it_is_asked_for(checkpoints: Path, tmp_path: Path) -> None:
    tagger = load_tagger(checkpoints / "transformer")
    assert isinstance(tagger, TransformerTagger)
    export_graphs("toy", checkpoints / "transformer", tmp_path, True, lambda line: None)
    report = read_report(tmp_path)
    assert (tmp_path / "model.fp16.onnx").stat().st_size < (tmp_path / "model.fp32.onnx").stat().st_size
    assert report["word_shapes"] == tagger.takes_shapes
    assert report["fused"]


def test_what_is_no_transformer_is_not_fused(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"toy: export\.fp16 is for Transformers, this is a cnn"):
        export_graphs("toy", checkpoints / "cnn", tmp_path, True, lambda line: None)
