"""Confidence intervals and tests say whether two scores differ by more than chance.

They are bootstraps over documents (Efron & Tibshirani 1993, "An introduction to the bootstrap"): as many
documents as the corpus has are drawn from it with replacement, thousands of times, and each draw gets a
micro-averaged entity score. Whole documents are drawn because entities of one document are not independent.

Intervals are percentile intervals. BCa intervals (`scipy.stats.bootstrap`) are undefined where all
documents have the same score, as with a perfect one, and SciPy has none for a mean over corpora.

A score depends only on the documents' counts, and many documents have equal counts, so the bootstrap draws
how often each distinct row of counts occurs. That has the same distribution and costs less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from app.engine.text.words import Ints
from training.evaluation.answers import Answers
from training.evaluation.spans import Score, score

Metric = Literal["f1", "precision", "recall"]
Floats = npt.NDArray[np.float64]

_CELLS = 2_000_000
"""Numbers in one block of draws, which take 16 MB."""


@dataclass(frozen=True)
class Interval:
    """Holds a score and its confidence interval, in percent."""

    value: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Difference:
    """Holds the difference in F1 of two versions, in percentage points.

    Attributes:
        value: F1 of `b` minus F1 of `a`.
        low, high: ends of the confidence interval.
        p_value: the probability that chance alone gives a difference as large, of either sign.
        level: level of the interval.
    """

    value: float
    low: float
    high: float
    p_value: float
    level: float = 0.95


def f1_interval(
    answers: Answers,
    labels: Sequence[str],
    label: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    metric: Metric = "f1",
) -> Interval:
    """Compute the entity F1 of a corpus (or its precision or recall) with a 95 % interval.

    Args:
        labels: the entity types, as for `score`.
        label: the only label that is scored; None scores all entities.

    Raises:
        ValueError: the corpus has no documents, or `label` is none of `labels`.
    """
    return average_interval([answers], labels, label, resamples, seed, metric)


def average_interval(
    many: Sequence[Answers],
    labels: Sequence[str],
    label: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    metric: Metric = "f1",
) -> Interval:
    """Compute the unweighted mean over corpora with a 95 % interval; each corpus is drawn separately.

    Raises:
        ValueError: there are no corpora, one has no documents, or `label` is none of `labels`.
    """
    tables = [_counts(answers, labels, label) for answers in many]
    values, draws = _mean(tables, metric, resamples, seed)
    low, high = _ends(draws[:, 0], Interval.level)
    return Interval(float(values[0]), low, high)


def paired_difference(
    a: Answers,
    b: Answers,
    labels: Sequence[str],
    label: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Test whether `b` scores above `a` on the same corpus, with the paired bootstrap.

    Both are scored on the same draws of documents. The p-value is the share of draws whose difference
    is at least as far from the measured difference as that is from zero (Berg-Kirkpatrick, Burkett &
    Klein 2012, "An empirical investigation of statistical significance in NLP"; two-sided here). The
    measured difference counts as one draw, so that the p-value is never zero.

    Raises:
        ValueError: the answers are about different documents, or as for `f1_interval`.
    """
    return average_difference([a], [b], labels, label, resamples, seed)


def average_difference(
    a: Sequence[Answers],
    b: Sequence[Answers],
    labels: Sequence[str],
    label: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Test as `paired_difference` does, with the unweighted mean over corpora.

    Raises:
        ValueError: the corpora or their documents differ, or as for `average_interval`.
    """
    _check_pairs(a, b)
    tables = [
        np.concatenate([_counts(left, labels, label), _counts(right, labels, label)], axis=1)
        for left, right in zip(a, b, strict=True)
    ]
    values, draws = _mean(tables, "f1", resamples, seed)
    value = float(values[1] - values[0])
    differences = draws[:, 1] - draws[:, 0]
    beyond = int((np.abs(differences - value) >= abs(value) - 1e-9).sum())
    low, high = _ends(differences, Difference.level)
    return Difference(value, low, high, (beyond + 1) / (resamples + 1))


def _check_pairs(a: Sequence[Answers], b: Sequence[Answers]) -> None:
    if [answers.corpus for answers in a] != [answers.corpus for answers in b]:
        raise ValueError(
            f"the corpora differ ({[x.corpus for x in a]} and {[x.corpus for x in b]}); "
            "ask both versions about the same corpora, in the same order"
        )
    for left, right in zip(a, b, strict=True):
        if left.documents != right.documents:
            raise ValueError(
                f"{left.corpus}: the documents differ ({len(left.documents)} and "
                f"{len(right.documents)} of them); ask both versions about the same documents"
            )


def _counts(answers: Answers, labels: Sequence[str], label: str | None) -> Ints:
    """Count the right, found and meant entities of each document, shape (documents, 3)."""
    if not answers.documents:
        raise ValueError(f"{answers.corpus}: no documents to resample; leave the corpus out")
    if label is not None and label not in labels:
        raise ValueError(f"label {label!r} is none of {', '.join(labels)}; name one of them, or none")
    rows: list[Score] = []
    for found, document in zip(answers.spans, answers.documents, strict=True):
        scores = score([found], [document.spans], labels)
        rows.append(scores.overall if label is None else scores.labels[label])
    return np.array([(row.right, row.found, row.meant) for row in rows], np.int64)


def _mean(tables: Sequence[Ints], metric: Metric, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Compute the mean over corpora, measured and for each draw.

    Args:
        tables: the counts of each corpus, shape (documents, 3 * versions).

    Returns:
        Means in percent, of shapes (versions,) and (resamples, versions).
    """
    if not tables:
        raise ValueError("no corpora to average over; give at least one")
    rng = np.random.default_rng(seed)
    values = [_scores(table.sum(0), metric) for table in tables]
    draws = [
        np.concatenate([_scores(drawn, metric) for drawn in _resampled(table, resamples, rng)])
        for table in tables
    ]
    return np.asarray(np.mean(values, axis=0)), np.asarray(np.mean(draws, axis=0))


def _resampled(table: Ints, resamples: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Yield the counts of drawn corpora in blocks of draws, each of shape (draws, columns)."""
    rows, often = np.unique(table, axis=0, return_counts=True)
    most = max(1, _CELLS // len(rows))
    for at in range(0, resamples, most):
        draws = min(most, resamples - at)
        yield rng.multinomial(len(table), often / len(table), size=draws) @ rows


def _scores(counts: Ints, metric: Metric) -> Floats:
    """Turn counts of shape (…, 3 * versions) into percentages of shape (…, versions); 0 for 0 / 0."""
    right, found, meant = np.moveaxis(counts.reshape(*counts.shape[:-1], -1, 3), -1, 0)
    above, below = {
        "f1": (2 * right, found + meant),
        "precision": (right, found),
        "recall": (right, meant),
    }[metric]
    return np.asarray(np.divide(100.0 * above, below, out=np.zeros(above.shape), where=below > 0))


def _ends(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
