from pathlib import Path

import onnx
import pytest

from app.manifest import MANIFEST, read_manifest, verify_files
from app.versions.loading.loader import load_version
from app.versions.storage.repository import Repository
from tests.tiny import LABELS, TAGS, tiny_graph, tiny_tokenizer
from training.export.package import (
    Package,
    environment,
    features_of,
    fill_version,
    new_version,
    next_version,
    write_version,
)


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


def test_a_version_loads_while_it_is_made_and_nobody_else_finds_it(
    package: Package, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with new_version(models, "tiny", 2) as draft:
        fill_version(draft, package)
        load_version(draft).model.close()
        assert Repository(models).names() == []
    assert Repository(models).versions("tiny") == [2]
    assert [path.name for path in models.iterdir()] == ["tiny"]


def test_filling_again_copies_no_graph_and_removes_what_is_not_shipped(
    package: Package, tmp_path: Path
) -> None:
    both = package.changed(files={"int8": package.files["fp32"], "fp32": package.files["fp32"]})
    with new_version(tmp_path / "models", "tiny", 1) as draft:
        fill_version(draft, both)
        before = (draft / "model.fp32.onnx").stat().st_mtime_ns
        fill_version(draft, package.changed(temperature=2.0), card="# tiny\n")
        assert (draft / "model.fp32.onnx").stat().st_mtime_ns == before
    folder = tmp_path / "models/tiny/1"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "manifest.json",
        "model.fp32.onnx",
        "tokenizer.json",
    }
    assert read_manifest(folder).temperature == 2.0
    verify_files(folder, read_manifest(folder))


def test_what_a_killed_process_left_is_not_in_the_way(package: Package, tmp_path: Path) -> None:
    left = tmp_path / "models/.new-tiny-1/tiny/1"
    left.mkdir(parents=True)
    (left / "model.int8.onnx").write_text("half")
    folder = write_version(package, tmp_path / "models", 1)
    assert not (folder / "model.int8.onnx").exists()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


def test_the_next_version_is_one_above_the_highest(package: Package, tmp_path: Path) -> None:
    assert next_version(tmp_path / "models", "tiny") == 1
    write_version(package, tmp_path / "models", 4)
    (tmp_path / "models" / ".new-tiny-5").mkdir()
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
