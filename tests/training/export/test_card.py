"""Model cards, of a version whose measurements are made up."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import LABELS, TAGS
from tests.training.toy import STUDENTS, write_recipe
from training.export.card import front_matter, model_card
from training.export.package import Package
from training.recipe import Recipe, load_recipe

METRICS: dict[str, Any] = {
    "test": {
        "average_f1": 81.25,
        "corpora": {"news": {"precision": 80.0, "recall": 82.5, "f1": 81.25, "support": 40, "labels": {}}},
    },
    "dev": {"average_f1": 79.5},
    "chosen": {
        "gate": 0.3,
        "machine": {"cores": 4, "processor": "Abacus"},
        "considered": {
            "int8": {"dev_average_f1": 79.5, "bytes": 1_500_000, "tokens_per_second": 123_456},
            "fp32": {"dev_average_f1": 79.75, "bytes": 6_000_000, "tokens_per_second": 65_432},
        },
    },
    "calibration": {
        "temperature": 1.25,
        "thresholds": {"PER": 0.0, "ORG": 0.35, "LOC": 0.5},
        "ece_before": 4.56,
        "ece_after": 1.23,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_recipe(folder, (1,), STUDENTS)
    (folder / "model.int8.onnx").write_bytes(bytes(1_500_000))
    return folder


def recipe(folder: Path, *changes: str) -> Recipe:
    return load_recipe(folder / "toy.toml", changes)


def package(folder: Path, **changes: Any) -> Package:
    made = Package(
        name="toy-cnn",
        labels=LABELS,
        tags=TAGS,
        scheme="IOB2",
        files={"int8": folder / "model.int8.onnx"},
        tokenizer=folder / "encoder/tokenizer.json",
        inputs={"input_ids": "ids"},
        max_length=32,
        stride=8,
        description="A small toy.",
        languages=("en", "de"),
        license="CC-BY-SA-4.0",
        metrics=METRICS,
        lineage={
            "made": "Distilled from a toy.",
            "student": "toy-cnn",
            "export": {"parameters": 1_234_567},
        },
    )
    return made.changed(**changes)


@pytest.mark.parametrize(
    ("license", "languages", "read"),
    [
        ("CC-BY-SA-4.0", ("en", "de"), ("cc-by-sa-4.0", ["en", "de"])),
        ("", (), ("other", [])),
    ],
)
def test_hubs_can_read_its_head(
    license: str, languages: tuple[str, ...], read: tuple[str, list[str]]
) -> None:
    before, head, after = front_matter(license, languages).split("---\n")
    fields = yaml.safe_load(head)
    assert (before, after) == ("", "")
    assert (fields["license"], fields["language"]) == read
    assert fields["pipeline_tag"] == "token-classification"


def test_it_says_what_the_version_is_and_how_it_did(folder: Path) -> None:
    card = model_card(package(folder), 7, recipe(folder))
    assert "# toy-cnn/7\n\nA small toy.\n" in card
    assert "1.2 million parameters in ONNX,\n1.5 MB (int8)" in card
    assert '"model": "toy-cnn"' in card
    assert "| news | all | 80.00 | 82.50 | 81.25 | 40 |" in card
    assert "Average F1 on the dev files: 79.50." in card
    assert f"nerve-train evaluate models/toy-cnn/7 {folder}/toy.toml" in card


def test_it_says_why_the_precision_was_chosen(folder: Path) -> None:
    card = model_card(package(folder), 1, recipe(folder))
    assert "on 4 cores of Abacus: the fastest\nthat loses at most\n0.3 points of dev F1" in card
    assert "| int8 | 79.50 | 1.5 | 123,456 |\n| fp32 | 79.75 | 6.0 | 65,432 |" in card
    asked = model_card(package(folder), 1, recipe(folder, "export.precision=fp32"))
    assert "on 4 cores of Abacus: fp32, as the\nrecipe asks, which loses at most" in asked


def test_it_says_how_scores_were_calibrated_and_which_are_dropped(folder: Path) -> None:
    card = model_card(package(folder), 1, recipe(folder))
    assert "a temperature of 1.25: there their\nexpected calibration error went from 4.6 to 1.2 %" in card
    assert "dropped: ORG below 0.35, LOC below 0.5." in card
    none = METRICS | {"calibration": METRICS["calibration"] | {"thresholds": {"PER": 0.0}}}
    assert "dropped" not in model_card(package(folder, metrics=none), 1, recipe(folder))


def test_scores_that_are_not_calibrated_are_said_to_be_so(folder: Path) -> None:
    card = model_card(package(folder), 1, recipe(folder, "export.calibrate=false"))
    assert "Scores are not calibrated; their expected calibration error on dev is 4.6 %." in card
    assert "temperature" not in card


def test_every_source_is_named_with_its_licence(folder: Path) -> None:
    changes = ("transfer.licence=CC0", "transfer.source=here", "encoder.source=there")
    card = model_card(package(folder), 1, recipe(folder, *changes))
    assert "| toy-train | see its source |  |\n" in card
    assert "| raw text, labelled by the teacher | CC0 | here |" in card
    assert "there\n(licence as its source states)." in card


@pytest.mark.parametrize("change", ["it is no student", "it saw no raw text"])
def test_raw_text_is_named_where_it_was_seen(folder: Path, change: str) -> None:
    made = package(folder)
    lineage = {key: value for key, value in made.lineage.items() if key != "student"}
    texts = ("transfer.texts=[]",) if change == "it saw no raw text" else ()
    made = made.changed(lineage=made.lineage if texts else lineage)
    assert "labelled by the teacher" not in model_card(made, 1, recipe(folder, *texts))


def test_limits_are_listed_if_there_are_any(folder: Path) -> None:
    limited = model_card(package(folder), 1, recipe(folder, 'limits=["Reads no poems.", "Is a toy."]'))
    assert limited.endswith("\n## Limits\n\n- Reads no poems.\n- Is a toy.\n")
    assert "## Limits" not in model_card(package(folder), 1, recipe(folder))
