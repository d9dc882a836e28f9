"""What the tests of reports share: a recipe, and one report on two versions and a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_tiny_version
from tests.training.evaluation.reports import QUICK, write_recipe, write_run
from training.evaluation.report import report
from training.recipe import Recipe


@pytest.fixture(scope="package")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return write_recipe(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    """A report on two versions and a run: the second takes IBM for a person."""
    folder = tmp_path_factory.mktemp("report")
    fitted = {"temperature": 2.0, "thresholds": {"ORG": 0.3}, "ece_before": 13.25, "ece_after": 4.75}
    first = write_tiny_version(folder / "models", metrics={"calibration": fitted})
    second = write_tiny_version(folder / "models", version=2, ibm="PER")
    run = write_run(folder / "runs/tiny")
    return report([first, run, second], recipe, folder / "out/report.html", **QUICK | {"robustness": True})


@pytest.fixture(scope="package")
def numbers(written: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(written.with_suffix(".json").read_text(encoding="utf-8"))
    return content
