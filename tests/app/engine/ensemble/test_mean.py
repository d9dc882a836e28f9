from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.entities import Evidence, Prediction
from app.engine.decoding.spans import Decoder
from app.engine.ensemble.mean import Mean, part_tag
from app.labels import Scheme, tags_of
from tests.tiny import LABELS

SCHEMES: list[Scheme] = ["IO", "IOB1", "IOB2", "BIOES"]
schemes = pytest.mark.parametrize("scheme", SCHEMES)


WORDS = 6
"""Words of the texts that posteriors are made up for."""


@schemes
@given(data=st.data())
def test_parts_spell_what_the_whole_spells(scheme: Scheme, data: st.DataObject) -> None:
    spans, member = data.draw(members(scheme, 1))
    (evidence,) = member
    finest = Evidence(Prediction((), 0), np.arange(WORDS) * 2, np.arange(WORDS) * 2 + 1, outside(scheme))
    tags = tags_of(LABELS, scheme)
    starts, ends, mean = Mean(tags, scheme, [tags, tags], [3, 1])([evidence, finest])
    assert (starts.tolist(), ends.tolist()) == (finest.starts.tolist(), finest.ends.tolist())
    assert decoded(scheme, starts, ends, mean) == spans


@schemes
@given(data=st.data())
def test_members_that_agree_are_answered_so_whatever_their_decisions(
    scheme: Scheme, data: st.DataObject
) -> None:
    spans, evidence = data.draw(members(scheme, 3))
    tags = tags_of(LABELS, scheme)
    starts, ends, mean = Mean(tags, scheme, [tags] * 3, [1, 2, 0.5])(evidence)
    assert np.allclose(mean.sum(1), 1)
    assert starts.tolist() == sorted({at for one in evidence for at in one.starts.tolist()})
    assert ends.tolist() == sorted({at for one in evidence for at in one.ends.tolist()})
    assert decoded(scheme, starts, ends, mean) == spans


@pytest.mark.parametrize(
    ("tag", "scheme", "parts"),
    [
        ("O", "BIOES", ("O", "O", "O")),
        ("S-PER", "BIOES", ("B-PER", "I-PER", "E-PER")),
        ("B-PER", "BIOES", ("B-PER", "I-PER", "I-PER")),
        ("E-PER", "BIOES", ("I-PER", "I-PER", "E-PER")),
        ("I-PER", "BIOES", ("I-PER", "I-PER", "I-PER")),
        ("B-PER", "IOB2", ("B-PER", "I-PER", "I-PER")),
        ("B-PER", "IOB1", ("B-PER", "I-PER", "I-PER")),
        ("I-PER", "IOB1", ("I-PER", "I-PER", "I-PER")),
        ("I-PER", "IO", ("I-PER", "I-PER", "I-PER")),
    ],
)
def test_a_decision_is_parted_by_its_scheme(tag: str, scheme: Scheme, parts: tuple[str, ...]) -> None:
    assert tuple(part_tag(tag, scheme, at == 0, at == 2) for at in range(3)) == parts
    assert part_tag(tag, scheme, True, True) == tag


def test_the_mean_is_weighted_and_by_tag_not_by_column() -> None:
    tags = tags_of(("PER",), "IOB2")  # O, B-PER, I-PER
    first = evidence([0], [5], [[0.7, 0.2, 0.1]])
    second = evidence([0], [5], [[0.1, 0.5, 0.4]])  # columns I-PER, O, B-PER
    _, _, mean = Mean(tags, "IOB2", [tags, ("I-PER", "O", "B-PER")], [3, 1])([first, second])
    assert np.allclose(mean, [[0.65, 0.25, 0.1]])


def test_a_cut_decision_gives_each_part_its_own_posterior() -> None:
    tags = tags_of(("PER",), "IOB2")
    whole = evidence([0], [6], [[0.3, 0.6, 0.1]])
    cut = evidence([0, 4], [3, 6], [[1, 0, 0], [0.5, 0.25, 0.25]])
    starts, ends, mean = Mean(tags, "IOB2", [tags, tags], [1, 1])([whole, cut])
    assert (starts.tolist(), ends.tolist()) == ([0, 4], [3, 6])
    assert np.allclose(mean, [[0.65, 0.3, 0.05], [0.4, 0.125, 0.475]])


def test_a_member_without_decisions_is_sure_of_nothing_there() -> None:
    tags = tags_of(("PER",), "IOB2")
    seen, blind = evidence([0], [3], [[0.2, 0.8, 0]]), evidence([], [], np.zeros((0, 3)))
    starts, _, mean = Mean(tags, "IOB2", [tags, tags], [1, 1])([blind, seen])
    assert starts.tolist() == [0]
    assert np.allclose(mean, [[0.6, 0.4, 0]])


def test_a_tag_that_a_member_lacks_has_no_probability_there() -> None:
    tags = tags_of(("PER",), "IOB2")
    short, full = evidence([0], [3], [[0.4, 0.6]]), evidence([0], [3], [[0.2, 0.6, 0.2]])
    _, _, mean = Mean(tags, "IOB2", [("O", "B-PER"), tags], [1, 1])([short, full])
    assert np.allclose(mean, [[0.3, 0.6, 0.1]])


def evidence(starts: Sequence[int], ends: Sequence[int], posteriors: Any) -> Evidence:
    return Evidence(
        Prediction((), 0),
        np.array(starts, np.int64),
        np.array(ends, np.int64),
        np.array(posteriors, np.float64),
    )


def outside(scheme: Scheme) -> Any:
    """Posteriors of a member that is sure of nothing: every tag is alike."""
    columns = len(tags_of(LABELS, scheme))
    return np.full((WORDS, columns), 1 / columns)


@st.composite
def members(
    draw: st.DrawFn, scheme: Scheme, count: int
) -> tuple[list[tuple[int, int, str]], list[Evidence]]:
    """Spans over words `2n:2n+1`, and members that are sure of them, each with decisions of its own."""
    found: list[tuple[int, int, str]] = []
    at = 0
    while at < WORDS:
        size = draw(st.integers(1, 3))
        touches = bool(found) and found[-1][1] == at
        if at + size <= WORDS and draw(st.booleans()):
            label = draw(st.sampled_from(LABELS))
            if not (scheme == "IO" and touches and found[-1][2] == label):
                found.append((at, at + size, label))
        at += size
    edges = {0, WORDS, *(edge for first, end, _ in found for edge in (first, end))}
    parts = [spelled(draw, scheme, found, edges) for _ in range(count)]
    return [(2 * first, 2 * end - 1, label) for first, end, label in found], parts


def spelled(
    draw: st.DrawFn, scheme: Scheme, found: Sequence[tuple[int, int, str]], edges: set[int]
) -> Evidence:
    """A member that is sure of the spans; its decisions begin at the edges and where it likes besides."""
    cuts = sorted(edges | set(draw(st.lists(st.integers(1, WORDS - 1)))))
    starts, ends = cuts[:-1], cuts[1:]
    tags = tags_of(LABELS, scheme)
    posteriors = np.zeros((len(starts), len(tags)))
    for row, (first, end) in enumerate(zip(starts, ends, strict=True)):
        tag = "O"
        for number, (low, high, label) in enumerate(found):
            if low <= first < high:
                opens, closes = first == low, end == high
                touches = number > 0 and found[number - 1][1:] == (low, label)
                prefix = {
                    "IO": "I",
                    "IOB1": "B" if opens and touches else "I",
                    "IOB2": "B" if opens else "I",
                    "BIOES": "S" if opens and closes else "B" if opens else "E" if closes else "I",
                }[scheme]
                tag = f"{prefix}-{label}"
        posteriors[row, tags.index(tag)] = 1
    return evidence([2 * first for first in starts], [2 * end - 1 for end in ends], posteriors)


def decoded(scheme: Scheme, starts: Any, ends: Any, mean: Any) -> list[tuple[int, int, str]]:
    found = Decoder(tags_of(LABELS, scheme), scheme).decode(np.log(np.maximum(mean, 1e-30)))
    return [(int(starts[s.first]), int(ends[s.last]), s.label) for s in found]
