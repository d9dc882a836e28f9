from pathlib import Path

import onnx
import pytest

from app.manifest import MANIFEST, read_manifest, verify_files
from app.versions.loading.loader import load_version
from app.versions.storage.repository import Repository
from tests.tiny import LABELS, TAGS, tiny_graph, tiny_tokenizer
from training.export.package import Package, environment, features_of, next_version, write_version


@pytest.fixture
def package(tmp_path: Path) -> Package:
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    onnx.save(tiny_graph(), tmp_path / "some.onnx")
    return Package(
        name="tiny",
        labels=LABELS,
        tags=TAGS,
        scheme="IOB2",
        files={"fp32": tmp_path / "some.onnx"},
        tokenizer=tmp_path / "tokenizer.json",
        inputs={"input_ids": "ids", "attention_mask": "mask"},
        max_length=64,
        stride=16,
        variant_metrics={"fp32": {"f1": 0.5}},
        lineage={"seeds": [1]},
    )


def test_what_is_written_verifies_and_loads(package: Package, tmp_path: Path) -> None:
    folder = write_version(package, tmp_path / "models", 3, card="# tiny\n")
    assert folder == tmp_path / "models" / "tiny" / "3"
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert set(manifest.files) == {"README.md", "model.fp32.onnx", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == {*manifest.files, MANIFEST}
    assert manifest.variants[0].metrics == {"f1": 0.5}
    assert manifest.lineage == {"seeds": [1]}
    load_version(folder).model.close()


def test_a_version_is_never_overwritten(package: Package, tmp_path: Path) -> None:
    folder = write_version(package, tmp_path / "models", 1)
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(FileExistsError, match="tiny/1: exists"):
        write_version(package.changed(description="another"), tmp_path / "models", 1)
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("changes", [{"stride": 63}, {"tags": ("O",)}, {"name": "Not a Name"}])
def test_a_failure_leaves_nothing(package: Package, changes: dict[str, object], tmp_path: Path) -> None:
    models = tmp_path / "models"
    with pytest.raises(ValueError, match="Manifest"):
        write_version(package.changed(**changes), models, 1)
    assert Repository(models).names() == []
    assert not [path for path in models.rglob("*") if path.is_file()]


def test_a_missing_file_leaves_nothing(package: Package, tmp_path: Path) -> None:
    models = tmp_path / "models"
    with pytest.raises(FileNotFoundError):
        write_version(package.changed(files={"int8": tmp_path / "missing.onnx"}), models, 1)
    assert Repository(models).names() == []
    write_version(package, models, 1)  # nor is it in the way of the next try
    assert Repository(models).versions("tiny") == [1]


def test_the_next_version_is_one_above_the_highest(package: Package, tmp_path: Path) -> None:
    assert next_version(tmp_path / "models", "tiny") == 1
    write_version(package, tmp_path / "models", 4)
    (tmp_path / "models" / "tiny" / ".5.new").mkdir()
    assert next_version(tmp_path / "models", "tiny") == 5


def test_token_types_carry_word_shapes_where_the_network_takes_them() -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert features_of(names, False)["token_type_ids"] == "zeros"
    assert features_of(names, True)["token_type_ids"] == "word_shape"
    assert features_of(names[:2], True) == {"input_ids": "ids", "attention_mask": "mask"}
    with pytest.raises(ValueError, match="bbox"):
        features_of((*names, "bbox"), False)


def test_the_environment_is_known_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {"torch", "onnx", "tokenizers"} <= set(environment()["libraries"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["git_commit"] == ""
