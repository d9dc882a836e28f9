"""Findings are the values of a report; `report.json` holds them.

The page, the tables and the plots show these values. `comparison.py` measures versions, and `runs.py` reads
the files of training runs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.evaluation.benchmark import Speed
from training.evaluation.calibration import Reliability
from training.evaluation.errors import Confusion, ErrorReport, Recall
from training.evaluation.machine import Machine
from training.evaluation.runs import TrainingRun
from training.evaluation.significance import Difference, Interval
from training.evaluation.spans import Percentages

UNCHANGED = "as it is"
"""The row of the robustness table for unchanged texts."""


@dataclass(frozen=True)
class TestCorpus:
    """Is a test file, with the numbers of its texts and entities."""

    __test__ = False  # pytest would collect the class by its name

    name: str
    texts: int
    entities: int


@dataclass(frozen=True)
class EntityScores:
    """Holds entity scores of one label, or of all, in percent; `support` counts the meant entities."""

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True)
class CorpusFindings:
    """Holds the scores and errors of one version in one test file.

    Attributes:
        all: scores of all labels together.
        labels: scores of each label.
        tokens: the token table, see `tokens.py`.
        errors: counts by kind, and examples, which only the page quotes.
    """

    all: EntityScores
    labels: dict[str, EntityScores]
    tokens: dict[str, Percentages]
    errors: ErrorReport


@dataclass(frozen=True)
class PerturbedScores:
    """Holds the F1 in percent after one perturbation, of each test file and as an unweighted mean."""

    average: float
    corpora: dict[str, float]


@dataclass(frozen=True)
class Differences:
    """Holds the differences of a version's F1 from the first version's, on average and by test file."""

    average: Difference
    corpora: dict[str, Difference]


@dataclass(frozen=True)
class VersionFindings:
    """Holds all findings about one version.

    Attributes:
        description, created, temperature, thresholds: values of its manifest.
        fitted: the manifest's record of the calibration on dev files; None if it was not fitted.
        name: the version's name in the report.
        average: the unweighted mean F1 over the test files.
        difference: difference from the first version; None for the first version.
        corpora: findings by test file.
        confusion: confusion over all test files together.
        robustness: scores by perturbation, `UNCHANGED` first; empty if they were not measured.
        calibration: reliability of the scores of all found entities.
        speed: size and speed on this machine.
    """

    description: str
    created: str
    temperature: float
    thresholds: Mapping[str, float]
    fitted: Mapping[str, Any] | None
    name: str
    average: Interval
    difference: Differences | None
    corpora: dict[str, CorpusFindings]
    confusion: Confusion
    robustness: dict[str, PerturbedScores]
    calibration: Reliability
    speed: Speed


@dataclass(frozen=True)
class ReportRecipe:
    """Names the recipe of the test files, and its file."""

    name: str
    file: str


@dataclass(frozen=True)
class Report:
    """Holds the content of the page, the tables and `report.json`.

    Attributes:
        created: time of the report, in ISO 8601.
        command: the command that makes the report again.
        labels: the recipe's entity types.
        resamples: number of draws of each bootstrap.
        corpora: the test files; empty without versions.
        versions: findings by version; the others are compared with the first.
        runs: the trainings that are plotted.
        torch: the speed of the recipe's encoder in PyTorch, if it was timed.
    """

    created: str
    command: str
    recipe: ReportRecipe
    labels: tuple[str, ...]
    resamples: int
    machine: Machine
    corpora: tuple[TestCorpus, ...]
    versions: tuple[VersionFindings, ...]
    runs: tuple[TrainingRun, ...]
    torch: Speed | None


def as_json(report: Report) -> dict[str, Any]:
    """Return the content of `report.json`: every number, and no text of a corpus."""
    content = {
        "created": report.created,
        "command": report.command,
        "recipe": asdict(report.recipe),
        "labels": list(report.labels),
        "resamples": report.resamples,
        "machine": asdict(report.machine),
        "corpora": [asdict(corpus) for corpus in report.corpora],
        "versions": [_version(version) for version in report.versions],
        "runs": [_run(run) for run in report.runs],
    }
    if report.versions:
        content["torch"] = asdict(report.torch) if report.torch else None
    return content


def _version(version: VersionFindings) -> dict[str, Any]:
    return {
        "description": version.description,
        "created": version.created,
        "temperature": version.temperature,
        "thresholds": dict(version.thresholds),
        "fitted": version.fitted,
        "name": version.name,
        "average": asdict(version.average),
        "difference": _differences(version.difference) if version.difference else None,
        "corpora": {name: _corpus(corpus) for name, corpus in version.corpora.items()},
        "confusion": {
            "names": list(version.confusion.names),
            "counts": version.confusion.counts.tolist(),
        },
        "robustness": {kind: asdict(scores) for kind, scores in version.robustness.items()},
        "calibration": asdict(version.calibration),
        "speed": asdict(version.speed),
    }


def _differences(differences: Differences) -> dict[str, Any]:
    corpora = {name: asdict(one) for name, one in differences.corpora.items()}
    return {"average": asdict(differences.average), **corpora}


def _corpus(corpus: CorpusFindings) -> dict[str, Any]:
    errors = corpus.errors
    return {
        "all": asdict(corpus.all),
        "labels": {label: asdict(scores) for label, scores in corpus.labels.items()},
        "tokens": {tag: asdict(row) for tag, row in corpus.tokens.items()},
        "errors": {
            "counts": errors.counts,
            "seen": _recall(errors.seen),
            "unseen": _recall(errors.unseen),
        },
    }


def _recall(recall: Recall) -> dict[str, float]:
    return {"recall": recall.value, "right": recall.right, "meant": recall.meant}


def _run(run: TrainingRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "stages": {stage: [asdict(epoch) for epoch in epochs] for stage, epochs in run.stages.items()},
        "learning_curve": run.learning_curve.recorded if run.learning_curve else None,
    }
