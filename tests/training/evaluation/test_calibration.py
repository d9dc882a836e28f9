from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from tests.tiny import write_tiny_version
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.evaluation.answers import Answers, Found, ask
from training.evaluation.calibration import (
    COLDEST,
    HOTTEST,
    Calibration,
    calibrate,
    fit_thresholds,
    reliability,
)
from training.evaluation.spans import score

LABELS = ("PER", "LOC")

judged = st.lists(
    st.tuples(st.integers(0, 100).map(lambda n: n / 100), st.booleans(), st.sampled_from(LABELS)),
    max_size=12,
)


def answers(some: Sequence[tuple[float, bool, str]], missed: int = 0) -> Answers:
    """A document of entities found with a score, right or wrong, and of others that were missed."""
    found = [Found(at, at + 1, label, score) for at, (score, _, label) in enumerate(some)]
    meant = [one.span for one, (_, right, _) in zip(found, some, strict=True) if right]
    meant += [Span(at, at + 1, "PER") for at in range(len(found), len(found) + missed)]
    document = Document("c", "x" * (len(found) + missed), tuple(meant))
    return Answers("c", (document,), (tuple(found),))


def test_reliability_by_hand() -> None:
    some = answers([(0.1, False, "PER"), (0.5, True, "PER"), (0.7, False, "LOC"), (1.0, True, "LOC")])
    result = reliability([some], bins=2)
    assert result.edges == (0.0, 0.5, 1.0)
    assert result.counts == (1, 3)
    assert result.confidence == pytest.approx((0.1, 2.2 / 3))
    assert result.accuracy == pytest.approx((0.0, 2 / 3))
    assert result.ece == pytest.approx(100 * (0.1 + 0.2) / 4)


def test_a_wrong_label_or_a_wrong_end_is_wrong() -> None:
    document = Document("d", "Ada Lund", (Span(0, 3, "PER"), Span(4, 8, "PER")))
    found = (Found(0, 3, "LOC", 1.0), Found(4, 7, "PER", 1.0))
    assert reliability([Answers("c", (document,), (found,))]).ece == 100


@given(st.lists(judged, max_size=3), st.integers(1, 20))
def test_bins_hold_every_entity(some: list[list[tuple[float, bool, str]]], bins: int) -> None:
    result = reliability([answers(one) for one in some], bins)
    everything = [one for document in some for one in document]
    assert sum(result.counts) == len(everything)
    assert 0 <= result.ece <= 100 + 1e-9
    hits = sum(a * n for a, n in zip(result.accuracy, result.counts, strict=True))
    assert hits == pytest.approx(sum(right for _, right, _ in everything))
    rows = zip(result.edges, result.edges[1:], result.confidence, result.counts, strict=False)
    for low, high, confidence, count in rows:
        assert not count or low - 1e-9 <= confidence <= high + 1e-9


def test_what_is_right_as_often_as_it_says_has_no_error() -> None:
    some = [(0.75, at % 4 != 0, "PER") for at in range(40)] + [
        (0.25, at % 4 == 0, "PER") for at in range(40)
    ]
    assert reliability([answers(some)]).ece == pytest.approx(0)


def test_a_threshold_drops_what_is_mostly_wrong() -> None:
    some = answers([(0.3, False, "PER"), (0.6, True, "PER"), (0.9, True, "LOC"), (0.2, True, "LOC")])
    assert fit_thresholds([some], LABELS) == {"PER": 0.31, "LOC": 0.0}


def test_a_threshold_must_gain_enough() -> None:
    some = answers([(0.3, False, "PER"), (0.6, True, "PER")])  # 66.7 without, 100 with
    assert fit_thresholds([some], LABELS, least_gain=33)["PER"] == 0.31
    assert fit_thresholds([some], LABELS, least_gain=34)["PER"] == 0.0


def test_a_threshold_is_for_the_average_of_the_corpora() -> None:
    gains = answers([(0.3, False, "PER"), (0.6, True, "PER")])
    loses = answers([(0.3, True, "PER")])
    assert fit_thresholds([gains, loses], ["PER"]) == {"PER": 0.0}
    assert fit_thresholds([gains, gains, gains, loses], ["PER"]) == {"PER": 0.0}
    assert fit_thresholds([gains, gains, gains, gains, loses], ["PER"]) == {"PER": 0.31}


def test_without_entities_nothing_is_dropped() -> None:
    assert fit_thresholds([], LABELS) == fit_thresholds([answers([])], LABELS) == {"PER": 0.0, "LOC": 0.0}


@given(st.lists(st.tuples(judged, st.integers(0, 3)), min_size=1, max_size=3))
def test_a_threshold_is_the_lowest_that_no_other_beats(some: list[Any]) -> None:
    corpora = [answers(one, missed) for one, missed in some]
    thresholds = fit_thresholds(corpora, LABELS, least_gain=0)
    for label in LABELS:
        by_cut = {cut / 100: average_f1(corpora, label, cut / 100) for cut in range(100)}
        best = max(by_cut.values())
        assert thresholds[label] == min(cut for cut, f1 in by_cut.items() if f1 >= best - 1e-9)


def average_f1(corpora: Sequence[Answers], label: str, cut: float) -> float:
    """F1 of a label in percent, where the predictor drops what scores less than `cut`."""
    values = []
    for corpus in corpora:
        kept = [[one.span for one in found if one.score >= cut] for found in corpus.found]
        scores = score(kept, [document.spans for document in corpus.documents], LABELS)
        values.append(100 * scores.labels[label].f1)
    return sum(values) / len(values)


def dev(right: int, wrong: int, name: str = "dev") -> LoadedCorpus:
    """Texts of the one word IBM, which is an organisation in some and nothing in the others."""
    spans = [(Span(0, 3, "ORG"),)] * right + [()] * wrong
    return LoadedCorpus(name, tuple(Document(f"d:{n}", "IBM", span) for n, span in enumerate(spans)))


def calibrated(folder: Path, *corpora: LoadedCorpus, **changes: Any) -> Calibration:
    predictor = load_version(write_tiny_version(folder, **changes), LoadOptions(threads=1)).model
    try:
        return calibrate(predictor, corpora)
    finally:
        predictor.close()


def test_entities_get_the_score_that_they_deserve(tmp_path: Path) -> None:
    """The network gives IBM's B-ORG 8 and all else 0; three other tags are legal on a single word."""
    result = calibrated(tmp_path, dev(50, 10), dev(20, 20, "other"))
    share = (70 * (71 / 72) + 30 * (1 / 32)) / 100
    assert result.temperature == pytest.approx(8 / np.log(3 * share / (1 - share)), abs=2e-3)
    assert result.before.ece == pytest.approx(100 * (np.exp(8) / (np.exp(8) + 3) - 0.7), abs=1e-3)
    assert result.after.ece == pytest.approx(100 * abs(share - 0.7), abs=0.05)
    assert sum(result.after.counts) == sum(result.before.counts) == 100
    assert result.thresholds == {"PER": 0.0, "ORG": 0.0, "LOC": 0.0}


def test_what_the_manifest_says_already_does_not_matter(tmp_path: Path) -> None:
    fresh = calibrated(tmp_path / "a", dev(7, 3))
    changed = calibrated(tmp_path / "b", dev(7, 3), temperature=2.0, thresholds={"ORG": 1.0}, golden=[])
    assert fresh == changed


def test_what_was_fitted_is_what_is_served(tmp_path: Path) -> None:
    text = "perhaps Angela of IBM in New York"
    spans = (Span(8, 14, "PER"), Span(18, 21, "ORG"), Span(25, 33, "LOC"))
    corpus = LoadedCorpus("c", (Document("a", text, spans), Document("b", text, spans[::2])))
    result = calibrated(tmp_path / "a", corpus)
    assert result.thresholds["PER"] > 0  # "perhaps" is nobody, and found with a low score
    assert result.thresholds["ORG"] == result.thresholds["LOC"] == 0.0
    folder = write_tiny_version(tmp_path / "b", temperature=result.temperature)
    predictor = load_version(folder, LoadOptions(threads=1)).model
    served = reliability([ask(predictor, corpus)])
    predictor.close()
    assert served == result.after
    assert sum(served.counts) == 8


def test_few_entities_that_are_all_right_are_not_certain(tmp_path: Path) -> None:
    few, more = calibrated(tmp_path / "a", dev(3, 0)), calibrated(tmp_path / "b", dev(30, 0))
    assert COLDEST < more.temperature < few.temperature < HOTTEST
    assert max(few.after.confidence) == pytest.approx(4 / 5, abs=1e-3)


def test_where_nothing_is_found_nothing_changes(tmp_path: Path) -> None:
    corpus = LoadedCorpus("c", (Document("a", "nothing here"), Document("b", "")))
    result = calibrated(tmp_path, corpus)
    assert (result.temperature, result.before.ece) == (1.0, 0.0)
    assert set(result.thresholds.values()) == {0.0}
