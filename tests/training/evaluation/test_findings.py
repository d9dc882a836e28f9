from pathlib import Path
from typing import Any

import pytest

from training.data.corpora import load_held_out
from training.evaluation.evaluate import evaluate
from training.evaluation.robustness import PERTURBATIONS
from training.recipe import Recipe


def test_scores_are_those_of_an_evaluation(written: Path, numbers: dict[str, Any], recipe: Recipe) -> None:
    models = written.parents[1] / "models/ner-en"
    for number, found in zip((1, 2), numbers["versions"], strict=True):
        meant = evaluate(models / str(number), load_held_out(recipe.test, recipe), tokens=True)
        assert found["average"]["value"] == pytest.approx(meant["average_f1"], abs=0.01)
        for corpus, row in meant["corpora"].items():
            assert found["corpora"][corpus]["tokens"] == row["tokens"]
            for label, scores in {"all": row, **row["labels"]}.items():
                of_label = {"all": found["corpora"][corpus]["all"], **found["corpora"][corpus]["labels"]}[
                    label
                ]
                assert of_label["support"] == scores["support"]
                for metric in ("precision", "recall", "f1"):
                    interval = of_label[metric]
                    assert interval["value"] == pytest.approx(scores[metric], abs=0.01)
                    assert interval["low"] <= interval["high"]


def test_versions_are_compared_with_the_first(numbers: dict[str, Any]) -> None:
    first, second = numbers["versions"]
    assert first["difference"] is None
    assert list(second["difference"]) == ["average", "news", "web"]
    gap = second["average"]["value"] - first["average"]["value"]
    assert gap < 0  # it takes firms for persons
    assert second["difference"]["average"]["value"] == pytest.approx(gap)


def test_errors_and_confusion_add_up(numbers: dict[str, Any]) -> None:
    for version in numbers["versions"]:
        for corpus in numbers["corpora"]:
            errors = version["corpora"][corpus["name"]]["errors"]
            meant = sum(sum(row.values()) for kind, row in errors["counts"].items() if kind != "spurious")
            assert meant == corpus["entities"] == errors["seen"]["meant"] + errors["unseen"]["meant"]
        counts, names = version["confusion"]["counts"], version["confusion"]["names"]
        assert sum(map(sum, counts[: names.index("none")])) == sum(
            c["entities"] for c in numbers["corpora"]
        )


def test_every_perturbation_is_reported(numbers: dict[str, Any], written: Path) -> None:
    for version in numbers["versions"]:
        kinds = version["robustness"]
        assert list(kinds) == ["as it is", *PERTURBATIONS]
        assert kinds["as it is"]["average"] == pytest.approx(version["average"]["value"])
    assert "no punctuation" in written.read_text(encoding="utf-8")


def test_calibration_says_what_was_fitted(numbers: dict[str, Any], written: Path) -> None:
    assert numbers["versions"][0]["fitted"]["ece_before"] == 13.25
    assert numbers["versions"][1]["fitted"] is None
    page = written.read_text(encoding="utf-8")
    assert "13.2" in page
    assert "fitted on dev files" in page


def test_every_version_has_a_size_and_a_speed(numbers: dict[str, Any], written: Path) -> None:
    for version in numbers["versions"]:
        assert version["speed"]["name"] == version["name"]
        assert version["speed"]["bytes"] > 0
        assert version["speed"]["tokens_per_second"] > 0


def test_json_has_the_same_fields_as_ever(numbers: dict[str, Any]) -> None:
    assert list(numbers) == [
        *("created", "command", "recipe", "labels", "resamples", "machine"),
        *("corpora", "versions", "runs", "torch"),
    ]
    assert list(numbers["recipe"]) == ["name", "file"]
    assert list(numbers["machine"]) == ["processor", "cores", "load", "system", "libraries"]
    assert list(numbers["corpora"][0]) == ["name", "texts", "entities"]
    assert list(numbers["runs"][0]) == ["name", "stages", "learning_curve"]
    version = numbers["versions"][1]
    assert list(version) == [
        *("description", "created", "temperature", "thresholds", "fitted", "name", "average"),
        *("difference", "corpora", "confusion", "robustness", "calibration", "speed"),
    ]
    corpus = version["corpora"]["news"]
    assert list(corpus) == ["all", "labels", "tokens", "errors"]
    assert list(corpus["all"]) == list(corpus["labels"]["PER"]) == ["precision", "recall", "f1", "support"]
    assert list(corpus["all"]["f1"]) == ["value", "low", "high", "level"]
    assert list(corpus["tokens"]["O"]) == ["precision", "recall", "f1", "support"]
    assert list(corpus["errors"]) == ["counts", "seen", "unseen"]
    assert list(corpus["errors"]["seen"]) == ["recall", "right", "meant"]
    assert list(version["difference"]["news"]) == ["value", "low", "high", "p_value", "level"]
    assert list(version["robustness"]["lower"]) == ["average", "corpora"]
    assert list(version["calibration"]) == ["edges", "confidence", "accuracy", "counts", "ece"]
