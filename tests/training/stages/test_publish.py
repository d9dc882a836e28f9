"""One network published; whole runs are in `tests/training/test_cli.py`."""

from pathlib import Path

import pytest

from app.manifest import read_manifest, verify_files
from app.versions.storage.repository import Repository
from training.recipe import Recipe, load_recipe
from training.stages.products import Product, best_teacher_product
from training.stages.publish import publish


@pytest.fixture(scope="module")
def recipe(tuned: Path) -> Recipe:
    return load_recipe(tuned / "toy.toml")


@pytest.fixture(scope="module")
def product(recipe: Recipe) -> Product:
    return best_teacher_product(recipe)


def test_a_version_is_written_once_and_whole(recipe: Recipe, product: Product, tmp_path: Path) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        assert Repository(tmp_path).names() == []  # nothing is there before all is

    folder = publish(product, recipe, tmp_path, None, say)
    assert folder == tmp_path / "toy/1"
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    (variant,) = manifest.variants
    assert {path.name for path in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert set(manifest.files) == {"README.md", "tokenizer.json", variant.file}
    assert set(manifest.metrics["chosen"]["considered"]) == {"int8", "fp32"}
    assert any("is shipped" in line for line in said)


def test_graphs_are_exported_once_for_their_weights(
    recipe: Recipe, product: Product, tmp_path: Path
) -> None:
    publish(product, recipe, tmp_path, 3, print)
    graph = product.folder / "export/model.int8.onnx"
    before = graph.stat().st_mtime_ns
    publish(product, recipe, tmp_path, None, print)
    assert graph.stat().st_mtime_ns == before
    assert Repository(tmp_path).versions("toy") == [3, 4]
    with pytest.raises(FileExistsError, match="toy/3: exists; versions never change"):
        publish(product, recipe, tmp_path, 3, print)


def test_a_precision_that_loses_too_much_leaves_nothing(
    recipe: Recipe, product: Product, tmp_path: Path
) -> None:
    strict = recipe.export.model_copy(update={"precision": "int8", "gate": -100.0})
    with pytest.raises(ValueError, match=r"int8 loses .* export\.gate allows -100"):
        publish(product, recipe.model_copy(update={"export": strict}), tmp_path, None, print)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_was_not_trained_is_named(recipe: Recipe, tmp_path: Path) -> None:
    nothing = Product("toy", "", tmp_path / "nowhere", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere: no checkpoint; nerve-train run or finetune makes it"):
        publish(nothing, recipe, tmp_path, None, print)
