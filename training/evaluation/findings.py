"""Findings: the values that a report is made of, and how `report.json` spells them.

The page, the tables and the plots are drawn from these values. They are measured in `report.py`, and what a
run left behind is read in `runs.py`.
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
"""The row of the robustness table for which nothing was done to the texts."""


@dataclass(frozen=True)
class TestCorpus:
    """A test file and how much it holds."""

    __test__ = False  # pytest takes the name for a test's

    name: str
    texts: int
    entities: int


@dataclass(frozen=True)
class EntityScores:
    """Entity scores of one label, or of all together, in percent; `support` entities were meant."""

    precision: Interval
    recall: Interval
    f1: Interval
    support: int


@dataclass(frozen=True)
class CorpusFindings:
    """What one version did in one test file.

    Attributes:
        all: scores of all labels together.
        labels: scores of each label.
        tokens: the token table, see `tokens.py`.
        errors: counts by kind, and the examples that only the page quotes.
    """

    all: EntityScores
    labels: dict[str, EntityScores]
    tokens: dict[str, Percentages]
    errors: ErrorReport


@dataclass(frozen=True)
class PerturbedScores:
    """F1 in percent after one perturbation: of each test file, and their unweighted mean."""

    average: float
    corpora: dict[str, float]


@dataclass(frozen=True)
class Differences:
    """How far a version's F1 lies from the first version's: on average and in each test file."""

    average: Difference
    corpora: dict[str, Difference]


@dataclass(frozen=True)
class VersionFindings:
    """Everything that was found out about one version.

    Attributes:
        description, created, temperature, thresholds: as its manifest says.
        fitted: what its manifest records of its calibration on dev files; None where it was not fitted.
        name: what the report calls it.
        average: the unweighted mean F1 over the test files.
        difference: to the first version; None of the first version itself.
        corpora: by test file.
        confusion: over all test files together.
        robustness: by perturbation, `UNCHANGED` first; empty where none was asked for.
        calibration: of the scores of all entities found.
        speed: its size and speed on this machine.
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
    """The recipe whose test files were asked about, and the file it was read from."""

    name: str
    file: str


@dataclass(frozen=True)
class Report:
    """All that the page, the tables and `report.json` are made of.

    Attributes:
        created: when it was made, in ISO 8601.
        command: what prints it again.
        labels: the recipe's entity types.
        resamples: draws of each bootstrap.
        corpora: the test files; none where there is no version.
        versions: the first is the one that the others are compared with.
        runs: trainings that are drawn.
        torch: the speed of the recipe's encoder in PyTorch, where it was asked for.
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
    """What `report.json` holds: every number, and no text of a corpus."""
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
