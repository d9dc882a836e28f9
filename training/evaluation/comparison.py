"""The comparison runs several versions on a recipe's test files and returns a report's findings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.manifest import read_manifest
from app.versions.loading.loader import load_version
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.evaluation.answers import Answers, ask
from training.evaluation.benchmark import Speed, measure_together
from training.evaluation.calibration import reliability
from training.evaluation.errors import Confusion, analyse, confusion, seen_mentions
from training.evaluation.findings import (
    UNCHANGED,
    CorpusFindings,
    Differences,
    EntityScores,
    PerturbedScores,
    TestCorpus,
    VersionFindings,
)
from training.evaluation.robustness import PERTURBATIONS, perturbed
from training.evaluation.significance import (
    Interval,
    Metric,
    average_difference,
    average_interval,
    f1_interval,
    paired_difference,
)
from training.evaluation.spans import score
from training.evaluation.tokens import token_table
from training.progress import Say
from training.recipe import Recipe


@dataclass(frozen=True)
class Effort:
    """Says how much a comparison measures.

    Attributes:
        resamples: number of draws of each bootstrap.
        robustness: whether every version also runs on every perturbation of the test files.
        torch: whether the recipe's encoder is also timed in PyTorch.
    """

    resamples: int = 10_000
    robustness: bool = True
    torch: bool = False


@dataclass(frozen=True)
class Comparison:
    """Holds the test files, the findings on each version, and the encoder's speed if it was timed."""

    corpora: tuple[TestCorpus, ...] = ()
    versions: tuple[VersionFindings, ...] = ()
    torch: Speed | None = None


@dataclass(frozen=True)
class _Questions:
    """Holds the texts that every version runs on, and the settings of the scores.

    Attributes:
        labels: the recipe's entity types.
        corpora: the test files.
        disturbed: the same files after each perturbation; empty without robustness.
        seen: the mentions of the training files, see `seen_mentions`.
        resamples: number of draws of each bootstrap.
    """

    labels: tuple[str, ...]
    corpora: Sequence[LoadedCorpus]
    disturbed: Mapping[str, Sequence[LoadedCorpus]]
    seen: frozenset[tuple[str, str]]
    resamples: int


@dataclass(frozen=True)
class _Replies:
    """Holds one version's answers in the test files, and its F1 after each perturbation."""

    answers: tuple[Answers, ...]
    robustness: dict[str, PerturbedScores]


def compare(folders: Sequence[Path], recipe: Recipe, effort: Effort, say: Say) -> Comparison:
    """Run versions on a recipe's test files, and compare the others with the first.

    Raises:
        ValueError: a version has other labels than the recipe or is named twice, or there is no test file.
        FileNotFoundError: a corpus is missing. VersionRefused: a version fails its checks.
    """
    if not folders:
        return Comparison()
    names = _names(folders, recipe)
    questions = _questions(recipe, effort)
    replies = []
    for folder, name in zip(folders, names, strict=True):
        say(f"{name}: asking it about {len(questions.corpora)} corpora")
        replies.append(_ask(folder, questions))
    say("measuring speed")
    speeds = measure_together(folders, names=names, teacher=recipe if effort.torch else None)
    say("drawing intervals")
    return Comparison(
        tuple(
            TestCorpus(one.name, len(one.documents), sum(len(document.spans) for document in one.documents))
            for one in questions.corpora
        ),
        tuple(
            _findings(folder, speed, reply, replies[0], questions)
            for folder, speed, reply in zip(folders, speeds, replies, strict=False)
        ),
        speeds[-1] if effort.torch else None,
    )


def _names(folders: Sequence[Path], recipe: Recipe) -> list[str]:
    """Return the shortest ends of the folders' paths, of two parts or more, that are all different."""
    for folder in folders:
        labels = read_manifest(folder).labels
        if set(labels) != set(recipe.labels):
            raise ValueError(
                f"{folder}: its labels are {', '.join(labels)}, the recipe's "
                f"{', '.join(recipe.labels)}; report it with a recipe of its labels"
            )
    if len(set(folders)) < len(folders):
        raise ValueError(f"a version is named twice in {', '.join(map(str, folders))}; name each once")
    parts = 2  # the name and the version
    while len({folder.parts[-parts:] for folder in folders}) < len(folders):
        parts += 1
    return ["/".join(folder.parts[-parts:]) for folder in folders]


def _questions(recipe: Recipe, effort: Effort) -> _Questions:
    corpora = load_held_out(recipe.test, recipe)
    if not corpora:
        raise ValueError(f"{recipe.file or recipe.name}: no [[test]] corpora to report on; name one")
    kinds = PERTURBATIONS if effort.robustness else ()
    return _Questions(
        recipe.labels,
        corpora,
        {kind: [perturbed(corpus, kind) for corpus in corpora] for kind in kinds},
        seen_mentions(load_train(recipe)),
        effort.resamples,
    )


def _ask(folder: Path, questions: _Questions) -> _Replies:
    loaded = load_version(folder)
    try:
        answers = tuple(ask(loaded.model, corpus) for corpus in questions.corpora)
        scores = {UNCHANGED: _f1s(answers, questions.labels)} if questions.disturbed else {}
        for kind, corpora in questions.disturbed.items():
            scores[kind] = _f1s([ask(loaded.model, corpus) for corpus in corpora], questions.labels)
    finally:
        loaded.model.close()
    return _Replies(answers, scores)


def _f1s(answers: Sequence[Answers], labels: Sequence[str]) -> PerturbedScores:
    corpora = {
        one.corpus: 100 * score(one.spans, [d.spans for d in one.documents], labels).overall.f1
        for one in answers
    }
    return PerturbedScores(float(np.mean(list(corpora.values()))), corpora)


def _findings(
    folder: Path, speed: Speed, replies: _Replies, first: _Replies, questions: _Questions
) -> VersionFindings:
    manifest, answers, labels = read_manifest(folder), replies.answers, questions.labels
    return VersionFindings(
        description=manifest.description,
        created=manifest.created,
        temperature=manifest.temperature,
        thresholds=manifest.thresholds,
        fitted=manifest.metrics.get("calibration"),
        name=speed.name,
        average=average_interval(answers, labels, resamples=questions.resamples),
        difference=None if replies is first else _differences(first.answers, answers, questions),
        corpora={one.corpus: _corpus(one, questions) for one in answers},
        confusion=_confusion(answers, labels),
        robustness=replies.robustness,
        calibration=reliability(answers),
        speed=speed,
    )


def _corpus(answers: Answers, questions: _Questions) -> CorpusFindings:
    labels = questions.labels
    scores = score(answers.spans, [document.spans for document in answers.documents], labels)

    def row(label: str | None, support: int) -> EntityScores:
        def interval(metric: Metric) -> Interval:
            return f1_interval(answers, labels, label, questions.resamples, metric=metric)

        return EntityScores(interval("precision"), interval("recall"), interval("f1"), support)

    return CorpusFindings(
        all=row(None, scores.overall.meant),
        labels={label: row(label, scores.labels[label].meant) for label in labels},
        tokens=token_table(answers.documents, answers.spans, labels),
        errors=analyse(answers, labels, questions.seen),
    )


def _differences(
    first: Sequence[Answers], answers: Sequence[Answers], questions: _Questions
) -> Differences:
    labels, resamples = questions.labels, questions.resamples
    return Differences(
        average_difference(first, answers, labels, resamples=resamples),
        {
            b.corpus: paired_difference(a, b, labels, resamples=resamples)
            for a, b in zip(first, answers, strict=True)
        },
    )


def _confusion(answers: Sequence[Answers], labels: Sequence[str]) -> Confusion:
    """Return the confusion matrix over all corpora together."""
    matrices = [confusion(one, labels) for one in answers]
    return Confusion(matrices[0].names, np.sum([matrix.counts for matrix in matrices], axis=0))
