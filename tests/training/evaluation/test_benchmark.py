from pathlib import Path

import pytest

from app.errors import VersionRefused
from tests.tiny import write_tiny_version
from training.evaluation.benchmark import Speed, family_table, measure_together
from training.evaluation.timed import count_parameters
from training.recipe import load_recipe


def test_a_version_is_measured(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (speed,) = measure_together([folder], rounds=1, threads=1)
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
    (speed,) = measure_together([folder], rounds=1, threads=1)
    assert speed.tokens_per_second > 0


def test_versions_are_measured_together_under_the_names_given(models_dir: Path) -> None:
    folders = [models_dir / "ner-en/1", write_tiny_version(models_dir, version=2, shapes=True)]
    speeds = measure_together(folders, rounds=2, threads=1, names=["teacher", "student"])
    assert [speed.name for speed in speeds] == ["teacher", "student"]
    assert speeds[1].parameters > speeds[0].parameters


def test_parameters_are_what_the_lineage_says(tmp_path: Path) -> None:
    folder = write_tiny_version(tmp_path, lineage={"export": {"parameters": 1234}})
    (speed,) = measure_together([folder], rounds=1, threads=1)
    assert speed.parameters == 1234


def test_a_version_that_fails_its_checks_is_not_measured(models_dir: Path) -> None:
    (models_dir / "ner-en/1/model.fp32.onnx").write_bytes(b"")
    with pytest.raises(VersionRefused, match=r"ner-en/1: model\.fp32\.onnx"):
        measure_together([models_dir / "ner-en/1"], rounds=1, threads=1)


def test_without_rounds_nothing_is_measured(models_dir: Path) -> None:
    with pytest.raises(ValueError, match="rounds is 0"):
        measure_together([models_dir / "ner-en/1"], rounds=0, threads=1)


def test_a_teacher_is_measured_in_pytorch(toy: Path, models_dir: Path) -> None:
    teacher = load_recipe(toy / "toy.toml")
    (version, torch) = measure_together([models_dir / "ner-en/1"], rounds=1, threads=1, teacher=teacher)
    assert (version.runtime, torch.runtime, torch.precision) == ("onnxruntime", "torch", "fp32")
    assert (torch.name, torch.threads) == ("a teacher of toy", 1)
    assert torch.bytes == 4 * torch.parameters
    assert torch.tokens_per_second > 0


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
