"""The best legal tags of texts of any length, against the plain algorithm over the whole text."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.grammar import Grammar, Scheme, grammar, tags_of
from app.engine.viterbi import make_legal

SCHEMES: list[Scheme] = ["IO", "IOB1", "IOB2", "BIOES"]
RULES = {scheme: grammar(tags_of(("PER", "LOC"), scheme), scheme) for scheme in SCHEMES}


def highest_sum(logits: npt.NDArray[np.float64], rules: Grammar) -> float:
    """The highest sum of logits of a legal sequence."""
    reach = np.where(rules.first, logits[0], -np.inf)
    for row in logits[1:]:
        reach = np.where(rules.legal, reach[:, None], -np.inf).max(0) + row
    return float(reach[rules.final].max())


@pytest.mark.parametrize("scheme", SCHEMES)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 400),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    sure=st.sampled_from([0.0, 2.0, 20.0]),
    steps=st.sampled_from([None, 1.0]),
)
def test_no_legal_sequence_is_better(
    scheme: Scheme, seed: int, length: int, spread: float, sure: float, steps: float | None
) -> None:
    """Be the text full of illegal places or nearly without, the outside sure or not, and ties or none."""
    rules, random = RULES[scheme], np.random.default_rng(seed)
    logits = random.normal(0, spread, (length, len(rules.first)))
    logits[:, 0] += sure * (random.random(length) < 0.9)
    if steps:
        logits = np.round(logits / steps) * steps
    tags = np.pad(logits.argmax(1), 1)
    was_legal = bool(rules.legal[tags[:-1], tags[1:]].all())
    assert make_legal(tags, logits, rules) is not was_legal
    assert rules.legal[tags[:-1], tags[1:]].all()
    assert logits[np.arange(length), tags[1:-1]].sum() == pytest.approx(
        highest_sum(logits, rules), abs=1e-9
    )


def test_windows_grow_until_what_is_beyond_is_sure() -> None:
    """A long entity whose tags hardly differ: its end decides what all of it is."""
    rules = RULES["BIOES"]
    tags = tags_of(("PER", "LOC"), "BIOES")
    inside = [tags.index("I-PER"), tags.index("I-LOC")]
    logits = np.full((1_000, len(tags)), -10.0)
    logits[:, 0] = 10.0
    logits[100:700, 0] = -10.0
    logits[100:700, inside] = 1.0, 0.99
    logits[100, tags.index("B-PER")] = 2.0
    logits[100, tags.index("B-LOC")] = 1.99
    logits[699, tags.index("E-LOC")] = 9.0
    found = np.pad(logits.argmax(1), 1)
    make_legal(found, logits, rules)
    assert [tags[tag] for tag in found[101:701]] == ["B-LOC", *["I-LOC"] * 598, "E-LOC"]
    assert (found[1:101] == 0).all()
    assert (found[701:] == 0).all()
