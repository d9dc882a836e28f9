"""Bootstraps of tiny corpora are compared with the enumeration of every draw there is."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from tests.training.evaluation.counted import LABELS, counted
from training.evaluation import significance
from training.evaluation.answers import Answers
from training.evaluation.significance import (
    Metric,
    average_difference,
    average_interval,
    f1_interval,
    paired_difference,
)
from training.evaluation.spans import score

Counts = list[tuple[int, int, int]]
Floats = npt.NDArray[np.float64]

SMALL: Counts = [(2, 3, 4), (0, 1, 0), (1, 1, 1), (0, 0, 2)]
BETTER: Counts = [(3, 3, 4), (0, 0, 0), (1, 1, 1), (1, 2, 2)]
counts = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)).map(
        lambda c: (c[0], c[0] + c[1], c[0] + c[2])
    ),
    min_size=1,
    max_size=8,
)


def f1(rows: Sequence[tuple[int, int, int]]) -> float:
    right, found, meant = (sum(row[at] for row in rows) for at in range(3))
    return 200 * right / (found + meant) if found + meant else 0.0


def every_draw(counts: Counts) -> Floats:
    """The F1 of each corpus that can be drawn, all as likely."""
    return np.array([f1(drawn) for drawn in itertools.product(counts, repeat=len(counts))])


@given(counts, st.sampled_from(["f1", "precision", "recall"]))
def test_the_value_is_the_score_and_the_ends_are_percentages(some: Counts, metric: Metric) -> None:
    answers = counted(some)
    interval = f1_interval(answers, LABELS, resamples=50, metric=metric)
    meant = score(answers.spans, [document.spans for document in answers.documents], LABELS)
    assert interval.value == pytest.approx(100 * getattr(meant.overall, metric))
    assert 0 <= interval.low <= interval.high <= 100


def test_the_interval_is_that_of_all_possible_draws() -> None:
    interval = f1_interval(counted(SMALL), LABELS)
    low, high = np.quantile(every_draw(SMALL), [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=2)
    assert interval.level == 0.95


def test_the_interval_is_scipys_percentile_interval() -> None:
    rng = np.random.default_rng(1)
    right, wrong, missed = (rng.poisson(mean, 400) for mean in (1.5, 0.4, 0.6))
    table = np.stack([right, right + wrong, right + missed])

    def statistic(*columns: Floats, axis: int) -> Floats:
        r, f, m = (column.sum(axis) for column in columns)
        return np.asarray(200 * r / (f + m))

    scipys = bootstrap(
        tuple(table), statistic, paired=True, vectorized=True, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    interval = f1_interval(counted([tuple(row) for row in table.T.tolist()]), LABELS)
    assert (interval.low, interval.high) == pytest.approx((scipys.low, scipys.high), abs=0.2)


def test_a_label_is_scored_alone() -> None:
    persons, places = counted(SMALL), counted(BETTER, label="LOC")
    both = Answers("c", persons.documents + places.documents, persons.found + places.found)
    assert f1_interval(both, LABELS, "PER").value == pytest.approx(f1(SMALL))
    assert f1_interval(both, LABELS, "LOC").value == pytest.approx(f1(BETTER))
    assert f1_interval(both, LABELS).value == pytest.approx(f1(SMALL + BETTER))


def test_a_perfect_version_has_an_interval_of_one_point() -> None:
    interval = f1_interval(counted([(1, 1, 1), (2, 2, 2)]), LABELS)
    assert (interval.value, interval.low, interval.high) == (100, 100, 100)


def test_an_average_resamples_each_corpus_on_its_own() -> None:
    interval = average_interval([counted(SMALL, "a"), counted(BETTER, "b")], LABELS)
    draws = np.add.outer(every_draw(SMALL), every_draw(BETTER)).ravel() / 2
    assert interval.value == pytest.approx((f1(SMALL) + f1(BETTER)) / 2)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1.5)


def test_a_difference_is_that_of_all_possible_draws() -> None:
    difference = paired_difference(counted_pair(SMALL), counted_pair(BETTER), LABELS)
    value = f1(BETTER) - f1(SMALL)
    draws = np.array(
        [
            f1([b for _, b in drawn]) - f1([a for a, _ in drawn])
            for drawn in itertools.product(list(zip(SMALL, BETTER, strict=True)), repeat=len(SMALL))
        ]
    )
    assert difference.value == pytest.approx(value)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=2)
    expected = (np.abs(draws - value) >= value - 1e-9).mean()
    assert 0.01 < expected < 0.99
    assert difference.p_value == pytest.approx(expected, abs=0.02)


def counted_pair(some: Counts, corpus: str = "c") -> Answers:
    """As `counted`, under documents that depend on what was meant alone."""
    answers = counted(some, corpus)
    return replace(answers, documents=tuple(replace(d, text="x" * 9) for d in answers.documents))


def test_draws_of_two_versions_are_paired() -> None:
    """Documents differ much and versions little: only drawn together is the difference certain."""
    hard_and_easy: Counts = [(0, 4, 6), (6, 6, 6)] * 20
    better: Counts = [(1, 4, 6), (6, 6, 6)] * 20
    a, b = counted_pair(hard_and_easy), counted_pair(better)
    first, second = f1_interval(a, LABELS), f1_interval(b, LABELS)
    assert first.high > second.low
    difference = paired_difference(a, b, LABELS)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.p_value < 0.01


@settings(max_examples=20)
@given(counts, st.integers(0, 3))
def test_a_version_does_not_differ_from_itself(some: Counts, seed: int) -> None:
    same = paired_difference(counted(some), counted(some), LABELS, resamples=99, seed=seed)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_difference_turns_its_sign_with_its_sides() -> None:
    a, b = counted_pair(SMALL), counted_pair(BETTER)
    there, back = paired_difference(a, b, LABELS), paired_difference(b, a, LABELS)
    assert there.value == -back.value > 0
    assert there.p_value == pytest.approx(back.p_value, abs=0.03)


def test_a_difference_of_averages_is_the_average_of_differences() -> None:
    a = [counted_pair(SMALL, "x"), counted_pair(SMALL, "y")]
    b = [counted_pair(BETTER, "x"), counted_pair(SMALL, "y")]
    difference = average_difference(a, b, LABELS)
    alone = paired_difference(a[0], b[0], LABELS)
    assert difference.value == pytest.approx(alone.value / 2)
    assert difference.high - difference.low == pytest.approx((alone.high - alone.low) / 2, abs=1.5)


def test_a_p_value_is_never_zero() -> None:
    worse, better = counted_pair([(0, 3, 3)] * 30), counted_pair([(3, 3, 3)] * 30)
    difference = paired_difference(worse, better, LABELS, resamples=199)
    assert (difference.value, difference.p_value) == (100, 1 / 200)


def test_draws_depend_on_the_seed_and_not_on_how_many_are_made_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = counted(SMALL)
    whole = f1_interval(answers, LABELS, resamples=101)
    monkeypatch.setattr(significance, "_CELLS", 13)
    assert f1_interval(answers, LABELS, resamples=101) == whole
    assert f1_interval(answers, LABELS, resamples=101, seed=1) != whole


def test_errors_name_what_is_wrong() -> None:
    answers = counted(SMALL)
    with pytest.raises(ValueError, match="label 'DATE' is none of PER, LOC"):
        f1_interval(answers, LABELS, "DATE")
    with pytest.raises(ValueError, match="empty: no documents"):
        f1_interval(Answers("empty", (), ()), LABELS)
    with pytest.raises(ValueError, match="no corpora"):
        average_interval([], LABELS)
    with pytest.raises(ValueError, match=r"c: the documents differ \(4 and 3 of them\)"):
        paired_difference(answers, counted(SMALL[:3]), LABELS)
    with pytest.raises(ValueError, match="the documents differ"):
        paired_difference(answers, counted([(0, 0, 1), *SMALL[1:]]), LABELS)
    with pytest.raises(ValueError, match="the corpora differ"):
        average_difference([answers], [], LABELS)
