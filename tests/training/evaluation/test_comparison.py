import json
from pathlib import Path

import pytest

from tests.tiny import write_tiny_version
from tests.training.evaluation.reports import QUICK, write_recipe
from training.evaluation.report import report
from training.recipe import Recipe


def test_two_versions_of_one_name_are_told_apart(recipe: Recipe, tmp_path: Path) -> None:
    folders = [write_tiny_version(tmp_path / "old"), write_tiny_version(tmp_path / "new", ibm="PER")]
    path = report(folders, recipe, tmp_path / "report.html", **QUICK)
    names = [version["name"] for version in json.loads(path.with_suffix(".json").read_text())["versions"]]
    assert names == ["old/ner-en/1", "new/ner-en/1"]
    with pytest.raises(ValueError, match="a version is named twice"):
        report([folders[0], folders[0]], recipe, tmp_path / "report.html", **QUICK)


def test_a_version_with_other_labels_is_refused(models_dir: Path, recipe: Recipe, tmp_path: Path) -> None:
    fewer = recipe.model_copy(update={"labels": ("PER",)})
    with pytest.raises(ValueError, match=r"ner-en/1: its labels are PER, ORG, LOC, the recipe's PER; "):
        report([models_dir / "ner-en/1"], fewer, tmp_path / "report.html", **QUICK)


def test_a_recipe_without_test_files_is_refused(models_dir: Path, tmp_path: Path) -> None:
    nothing = write_recipe(tmp_path, test=())
    with pytest.raises(ValueError, match=r"tiny\.toml: no \[\[test\]\] corpora"):
        report([models_dir / "ner-en/1"], nothing, tmp_path / "report.html", **QUICK)


def test_a_single_version_is_called_by_its_name_and_number(
    models_dir: Path, recipe: Recipe, tmp_path: Path
) -> None:
    path = report([models_dir / "ner-en/1"], recipe, tmp_path / "report.html", **QUICK)
    (version,) = json.loads(path.with_suffix(".json").read_text())["versions"]
    assert version["name"] == "ner-en/1"
