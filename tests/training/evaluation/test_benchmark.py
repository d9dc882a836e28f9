from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from app.errors import VersionRefused
from tests.tiny import TAGS, VOCABULARY, tiny_graph, write_tiny_version
from tests.training.toy import write_encoder
from training.evaluation.benchmark import (
    SENTENCES,
    Speed,
    count_parameters,
    family_table,
    machine,
    measure,
    measure_together,
    measure_torch,
)


def test_sentences_are_as_long_as_those_of_news() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES) >= 20
    assert all(20 <= len(sentence.split()) <= 30 for sentence in SENTENCES)


def test_a_version_is_measured(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    speed = measure(folder, threads=1, rounds=1)
    assert (speed.name, speed.precision, speed.runtime, speed.threads) == (
        "ner-en/1",
        "fp32",
        "onnxruntime",
        1,
    )
    assert speed.bytes == (folder / "model.fp32.onnx").stat().st_size
    assert speed.parameters == count_parameters(folder / "model.fp32.onnx")
    assert speed.tokens_per_second > 0
    assert speed.milliseconds_per_sentence > 0


def test_word_shapes_and_short_windows_are_fed_too(tmp_path: Path) -> None:
    folder = write_tiny_version(tmp_path, shapes=True, max_length=16, stride=4)
    assert measure(folder, threads=1, rounds=1).tokens_per_second > 0


def test_versions_are_measured_together_under_the_names_given(models_dir: Path) -> None:
    folders = [models_dir / "ner-en/1", write_tiny_version(models_dir, version=2, shapes=True)]
    speeds = measure_together(folders, rounds=2, threads=1, names=["teacher", "student"])
    assert [speed.name for speed in speeds] == ["teacher", "student"]
    assert speeds[1].parameters > speeds[0].parameters


def test_parameters_are_what_the_lineage_says(tmp_path: Path) -> None:
    folder = write_tiny_version(tmp_path, lineage={"export": {"parameters": 1234}})
    assert measure(folder, threads=1, rounds=1).parameters == 1234


def test_parameters_are_counted_in_initializers_and_constants(tmp_path: Path) -> None:
    graph = tiny_graph()
    before = (len(VOCABULARY) - 1) * len(TAGS) + 1  # the table, and the axis of Unsqueeze
    onnx.save(graph, tmp_path / "tiny.onnx")
    assert count_parameters(tmp_path / "tiny.onnx") == before
    weight = numpy_helper.from_array(np.zeros((3, 5), np.float32))
    graph.graph.node.append(helper.make_node("Constant", [], ["weight"], value=weight))
    onnx.save(graph, tmp_path / "tiny.onnx")
    assert count_parameters(tmp_path / "tiny.onnx") == before + 15


def test_a_version_that_fails_its_checks_is_not_measured(models_dir: Path) -> None:
    (models_dir / "ner-en/1/model.fp32.onnx").write_bytes(b"")
    with pytest.raises(VersionRefused, match=r"ner-en/1: model\.fp32\.onnx"):
        measure(models_dir / "ner-en/1", threads=1, rounds=1)


def test_without_rounds_nothing_is_measured(models_dir: Path) -> None:
    with pytest.raises(ValueError, match="rounds is 0"):
        measure(models_dir / "ner-en/1", threads=1, rounds=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy Transformer tagger that was saved as training saves it."""
    import torch

    from training.models.transformer import TransformerTagger, load_tokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    encoder = str(write_encoder(folder / "encoder"))
    tagger = TransformerTagger.from_pretrained(encoder, TAGS, True, 0.0, torch.Generator().manual_seed(1))
    tagger.save(folder / "tagger")
    load_tokenizer(encoder).save(folder / "tagger/tokenizer.json")
    return folder / "tagger"


def test_a_checkpoint_is_measured_in_pytorch(checkpoint: Path, models_dir: Path) -> None:
    (version, torch) = measure_together(
        [models_dir / "ner-en/1"], rounds=1, threads=1, checkpoints=[checkpoint]
    )
    assert (version.runtime, torch.runtime, torch.precision) == ("onnxruntime", "torch", "fp32")
    assert torch.bytes == 4 * torch.parameters
    assert torch.tokens_per_second > 0


def test_a_tagger_is_measured_with_its_tokenizer(checkpoint: Path) -> None:
    import torch

    from training.models.transformer import TransformerTagger, load_tokenizer

    tagger = TransformerTagger.load(checkpoint)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        speed = measure_torch(tagger, load_tokenizer(str(checkpoint)), threads=1, rounds=1)
        assert torch.get_num_threads() == before + 1  # as it was
    finally:
        torch.set_num_threads(before)
    assert speed.threads == 1
    assert speed.parameters == measure_torch(checkpoint, threads=1, rounds=1).parameters
    with pytest.raises(ValueError, match="give its tokenizer"):
        measure_torch(tagger)


def test_the_machine_is_named() -> None:
    found = machine()
    assert found["processor"]
    assert found["cores"] >= 1
    assert {"Python", "onnxruntime", "torch"} <= set(found["libraries"])


def test_the_family_table_compares_with_the_first() -> None:
    rows = [
        Speed("teacher", "fp32", "torch", 2, 22_000_000, 88_000_000, 4_000.0, 20.0),
        Speed("student", "int8", "onnxruntime", 2, 5_000_000, 8_000_000, 32_000.0, 1.25),
    ]
    table = family_table(rows, {"teacher": 75.125}).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| teacher | 75.12 | torch fp32 | 22.00M | 88.0 | 1.0 |")
    assert table[3] == "| student |  | onnxruntime int8 | 5.00M | 8.0 | 11.0 | 32,000 | 1.25 | 8.0 | 16.0 |"
    assert "F1" not in family_table(rows)
