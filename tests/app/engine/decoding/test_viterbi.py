"""The best legal tags of texts of any length, against the plain algorithm over the whole text."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.grammar import Grammar, grammar
from app.engine.decoding.viterbi import make_legal
from app.labels import Scheme, tags_of

SCHEMES: list[Scheme] = ["IO", "IOB1", "IOB2", "BIOES"]
Logits = npt.NDArray[np.floating]


def highest_sum(logits: Logits, rules: Grammar) -> float:
    """The highest sum of logits of a legal sequence."""
    reach = np.where(rules.first, logits[0], -np.inf)
    for row in logits[1:].astype(np.float64):
        reach = np.where(rules.legal, reach[:, None], -np.inf).max(0) + row
    return float(reach[rules.final].max())


def made_legal(logits: Logits, rules: Grammar, outside: int = 0, around: int = 8) -> npt.NDArray[np.int64]:
    tags = np.pad(logits.argmax(1), 1, constant_values=outside)
    make_legal(tags, logits, rules, around)
    assert rules.legal[tags[:-1], tags[1:]].all()
    assert tags[0] == tags[-1] == outside
    return tags[1:-1]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 300),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    sure=st.sampled_from([0.0, 2.0, 20.0]),
    entities=st.lists(st.tuples(st.integers(0, 299), st.integers(1, 120)), max_size=4),
    steps=st.sampled_from([None, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    around=st.sampled_from([1, 2, 8]),
)
def test_no_legal_sequence_is_better(
    scheme: Scheme,
    data: st.DataObject,
    seed: int,
    length: int,
    spread: float,
    sure: float,
    entities: list[tuple[int, int]],
    steps: float | None,
    dtype: type[np.floating],
    around: int,
) -> None:
    """Be the text full of illegal places or nearly without, the outside sure or not, with ties or none; be
    some tags unknown to the model, in any order; and be there long entities that hang in the balance, so
    that one end of theirs decides the other."""
    tags = data.draw(st.permutations(tags_of(("PER", "LOC"), scheme)))
    tags = [tag for tag in tags if tag == "O" or data.draw(st.integers(0, 9))]
    outside, rules, random = tags.index("O"), grammar(tags, scheme), np.random.default_rng(seed)
    logits = random.normal(0, spread, (length, len(tags)))
    logits[:, outside] += sure * (random.random(length) < 0.9)
    inside = [number for number, tag in enumerate(tags) if tag.startswith("I-")]
    for first, size in entities:
        logits[first : first + size] -= sure
        logits[first : first + size, inside] += sure + random.normal(0, 0.02, len(inside))
        ends = slice(first, first + 1) if random.random() < 0.5 else slice(first + size - 1, first + size)
        logits[ends] += random.normal(0, 2, len(tags))
    if steps:
        logits = np.round(logits / steps) * steps
    logits = logits.astype(dtype)
    found = made_legal(logits, rules, outside, around)
    reached = logits[np.arange(length), found].astype(np.float64).sum()
    assert reached == pytest.approx(highest_sum(logits, rules), abs=1e-4)


@pytest.mark.parametrize("end", ["first", "last"])
def test_windows_grow_until_what_is_beyond_is_sure(end: str) -> None:
    """A long entity whose tags hardly differ: one end of it decides what all of it is."""
    tags = tags_of(("PER", "LOC"), "BIOES")
    logits = np.full((1_000, len(tags)), -10.0)
    logits[:, 0] = 10.0
    logits[100:700, 0] = -10.0
    logits[100:700, [tags.index("I-PER"), tags.index("I-LOC")]] = 1.0, 0.99
    clear, other = (100, 699) if end == "first" else (699, 100)
    prefix = {100: "B", 699: "E"}
    logits[clear, tags.index(f"{prefix[clear]}-LOC")] = 9.0
    logits[other, [tags.index(f"{prefix[other]}-{label}") for label in ("PER", "LOC")]] = 2.0, 1.99
    found = made_legal(logits, grammar(tags, "BIOES"))
    assert [tags[tag] for tag in found[100:700]] == ["B-LOC", *["I-LOC"] * 598, "E-LOC"]
    assert (found[:100] == 0).all()
    assert (found[700:] == 0).all()
