from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    CanineConfig,
    CanineForTokenClassification,
)

from app.engine.runtimes.session import OnnxSession
from tests.training.export.checkpoints import POSITIONS, write_checkpoint
from tests.training.models.teachers import TAGS, inputs, student, toy_teacher
from training.export import onnx_file
from training.export.onnx_file import export_onnx, input_names, keep_columns
from training.models import load_tagger
from training.models.tagger import Tagger


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


@pytest.fixture(scope="module", params=["bilstm", "cnn"])
def own(
    request: pytest.FixtureRequest, one_cpu: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tagger, Path]:
    """A network of our own and its graph."""
    folder = tmp_path_factory.mktemp("own")
    tagger = student(request.param, toy_teacher(folder))
    tagger.save(folder / request.param)
    report = export_onnx(str(folder / request.param), folder / "model.onnx")
    assert report["parity_max_abs"] < 1e-4
    return tagger, folder / "model.onnx"


def named(lengths: list[int], padded: int = 0) -> dict[str, np.ndarray]:
    names = ("input_ids", "attention_mask", "word_shape")
    return {name: tensor.numpy() for name, tensor in zip(names, inputs(lengths, padded), strict=True)}


def test_a_graph_of_our_own_is_asked_what_the_network_is(own: tuple[Tagger, Path]) -> None:
    assert input_names(own[1]) == ("input_ids", "attention_mask", "word_shape")
    graph = onnx.load(own[1]).graph
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [["rows", "length"]] * 3 + [["rows", "length", len(TAGS)]]


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [7, 1, 30], [64]])
def test_a_graph_of_our_own_computes_what_pytorch_does(
    own: tuple[Tagger, Path], lengths: list[int]
) -> None:
    tagger, path = own
    with torch.inference_mode():
        want = tagger(*inputs(lengths, max(lengths) + 2)).numpy()
    got = OnnxSession(path).run(named(lengths, max(lengths) + 2))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(got[row, :length], want[row, :length], atol=1e-4)


def test_a_row_in_a_graph_of_our_own_is_answered_as_it_would_be_alone(own: tuple[Tagger, Path]) -> None:
    session, lengths = OnnxSession(own[1]), [5, 31, 12, 1, 17]
    together = session.run(named(lengths, 40))
    for row, length in enumerate(lengths):
        alone = session.run(named([length]))[0]
        np.testing.assert_allclose(together[row, :length], alone, atol=1e-5)


def test_a_graph_that_differs_too_much_is_refused(
    own: tuple[Tagger, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own[0].save(tmp_path / "tagger")
    monkeypatch.setattr(onnx_file, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ValueError, match="logits of the ONNX graph differ from PyTorch's by"):
        export_onnx(str(tmp_path / "tagger"), tmp_path / "model.onnx")


def test_a_transformer_student_is_exported_as_any_checkpoint(one_cpu: None, tmp_path: Path) -> None:
    tagger = student("transformer", toy_teacher(tmp_path))
    tagger.save(tmp_path / "student")
    export_onnx(str(tmp_path / "student"), tmp_path / "model.onnx")
    assert input_names(tmp_path / "model.onnx") == ("input_ids", "attention_mask", "token_type_ids")
    arrays = named([9, 4])
    arrays["token_type_ids"] = arrays.pop("word_shape")
    with torch.inference_mode():
        want = load_tagger(tmp_path / "student")(*inputs([9, 4])).numpy()
    mask = arrays["attention_mask"] == 1
    got = OnnxSession(tmp_path / "model.onnx").run(arrays)
    np.testing.assert_allclose(got[mask], want[mask], atol=1e-4)
