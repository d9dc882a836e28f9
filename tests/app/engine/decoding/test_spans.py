"""Decoding against its definition: the legal tag sequences are the spellings of all sets of spans."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.spans import Decoder
from app.labels import Scheme, split_tag, tags_of
from tests.spellings import LABELS, SCHEMES, Span, legal_sequences, schemes

Logits = npt.NDArray[np.float64]


def weigh(scheme: Scheme, logits: Logits) -> dict[tuple[Span, ...], float]:
    """The probability of each set of spans, by enumeration."""
    decoder = DECODERS[scheme]
    scaled = logits / decoder.temperature
    p = np.exp(scaled) / np.exp(scaled).sum(1, keepdims=True)
    weights = {
        spans: float(np.prod([p[at, decoder.tags.index(tag)] for at, tag in enumerate(tags)]))
        for tags, spans in legal_sequences(len(logits), scheme).items()
    }
    total = sum(weights.values())
    return {spans: weight / total for spans, weight in weights.items()}


DECODERS = {scheme: Decoder(tags_of(LABELS, scheme), scheme, temperature=1.5) for scheme in SCHEMES}


@st.composite
def logits(draw: st.DrawFn, tags: int, longest: int = 4) -> Logits:
    """Logits of a short text, often with ties and with illegal best tags."""
    length = draw(st.integers(1, longest))
    values = st.integers(-12, 12).map(lambda n: n / 2)
    rows = st.lists(values, min_size=tags, max_size=tags)
    return np.array(draw(st.lists(rows, min_size=length, max_size=length)))


@schemes
@given(data=st.data())
def test_the_best_sequence_is_the_best_of_all_legal_ones(scheme: Scheme, data: st.DataObject) -> None:
    decoder = DECODERS[scheme]
    given_logits = data.draw(logits(len(decoder.tags)))
    found = tuple(decoder.tags[tag] for tag in decoder.best_tags(given_logits))

    def score(tags: tuple[str, ...]) -> float:
        return sum(given_logits[at, decoder.tags.index(tag)] for at, tag in enumerate(tags))

    legal = legal_sequences(len(given_logits), scheme)
    assert found in legal
    assert score(found) == max(map(score, legal))


@schemes
@given(data=st.data())
def test_entities_are_what_the_best_sequence_says(scheme: Scheme, data: st.DataObject) -> None:
    decoder = DECODERS[scheme]
    given_logits = data.draw(logits(len(decoder.tags)))
    best = tuple(decoder.tags[tag] for tag in decoder.best_tags(given_logits))
    found = tuple((span.first, span.last, span.label) for span in decoder.decode(given_logits))
    assert found == legal_sequences(len(given_logits), scheme)[best]


@schemes
@given(data=st.data())
def test_a_score_is_the_probability_of_exactly_this_span(scheme: Scheme, data: st.DataObject) -> None:
    decoder = DECODERS[scheme]
    given_logits = data.draw(logits(len(decoder.tags)))
    weights = weigh(scheme, given_logits)
    for first, last, label, score in decoder.decode(given_logits):
        exact = sum(weight for spans, weight in weights.items() if (first, last, label) in spans)
        assert score == pytest.approx(exact, rel=1e-9, abs=1e-12)


@schemes
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 300), spread=st.sampled_from([0.1, 3, 60]))
def test_no_illegal_sequence_ever_comes_out(scheme: Scheme, seed: int, length: int, spread: float) -> None:
    decoder = DECODERS[scheme]
    random = np.random.default_rng(seed).normal(0, spread, (length, len(decoder.tags)))
    tags = decoder.best_tags(random)
    rules = decoder.grammar
    assert rules.first[tags[0]]
    assert rules.final[tags[-1]]
    assert rules.legal[tags[:-1], tags[1:]].all()
    for first, last, label, score in decoder.decode(random):
        assert 0 <= first <= last < length
        assert {split_tag(decoder.tags[tag])[1] for tag in tags[first : last + 1]} == {label}
        assert 0 <= score <= 1


def test_no_decisions_no_entities() -> None:
    assert DECODERS["IOB2"].decode(np.zeros((0, 5), np.float32)) == []


def test_long_texts_neither_overflow_nor_vanish() -> None:
    decoder = DECODERS["BIOES"]
    values = np.zeros((20_000, len(decoder.tags)))
    values[:, 0] = 30
    for at in (0, 9_999, 19_999):
        values[at, decoder.tags.index("S-PER")] = 60
    spans = decoder.decode(values)
    assert [(span.first, span.last, span.label) for span in spans] == [
        (at, at, "PER") for at in (0, 9_999, 19_999)
    ]
    assert all(span.score > 0.99 for span in spans)


@schemes
def test_a_long_entity_keeps_its_score(scheme: Scheme) -> None:
    decoder = DECODERS[scheme]
    values = np.zeros((3_000, len(decoder.tags)))
    values[:, decoder.tags.index("I-LOC")] = 40
    if scheme == "IOB2":
        values[0, decoder.tags.index("B-LOC")] = 90
    if scheme == "BIOES":
        values[0, decoder.tags.index("B-LOC")] = values[-1, decoder.tags.index("E-LOC")] = 90
    (span,) = decoder.decode(values)
    assert span[:3] == (0, 2_999, "LOC")
    assert span.score == pytest.approx(1, abs=1e-6)


def random_logits(seed: int, spread: float, tags: int, lengths: list[int]) -> list[Logits]:
    """Logits of texts; with a small spread most decisions are `O`, as in real texts."""
    random = np.random.default_rng(seed)
    texts = [random.normal(0, spread, (length, tags)) for length in lengths]
    for text in texts[::2]:
        text[:, 0] += 6
    return texts


batches = given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.1, 3, 8, 60]),
    lengths=st.lists(st.one_of(st.integers(0, 12), st.integers(0, 150)), min_size=1, max_size=8),
    precision=st.sampled_from([np.float32, np.float64]),
)


@pytest.mark.parametrize("labels", [("PER",), LABELS, ("A", "B", "C", "D", "E", "F", "G")])
@schemes
@batches
def test_texts_decoded_together_are_to_the_bit_what_each_is_alone(
    scheme: Scheme,
    labels: tuple[str, ...],
    seed: int,
    spread: float,
    lengths: list[int],
    precision: type[np.floating],
) -> None:
    decoder = Decoder(tags_of(labels, scheme), scheme, 1.5)
    texts = [text.astype(precision) for text in random_logits(seed, spread, len(decoder.tags), lengths)]
    assert decoder.decode_all(texts) == [decoder.decode(text) for text in texts]


def test_no_texts_no_entities() -> None:
    assert DECODERS["IO"].decode_all([]) == []
    assert DECODERS["IO"].decode_all([np.zeros((0, 3)), np.zeros((0, 3))]) == [[], []]


@schemes
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.5, 3, 20]), length=st.integers(1, 30))
def test_labels_that_are_impossible_change_no_score(
    scheme: Scheme, seed: int, spread: float, length: int
) -> None:
    (values,) = random_logits(seed, spread, len(DECODERS[scheme].tags), [length])
    more = Decoder(tags_of((*LABELS, "A", "B", "C", "D"), scheme), scheme, temperature=1.5)
    wide = np.full((length, len(more.tags)), -1e4)
    wide[:, : values.shape[1]] = values
    few, many = DECODERS[scheme].decode(values), more.decode(wide)
    assert [span[:3] for span in few] == [span[:3] for span in many]
    assert [span.score for span in few] == pytest.approx([span.score for span in many], rel=1e-9)


@schemes
@pytest.mark.parametrize("spread", [0.5, 3, 8])
def test_what_a_sure_outside_parts_is_scored_alone(scheme: Scheme, spread: float) -> None:
    decoder = DECODERS[scheme]
    texts = random_logits(7, spread, len(decoder.tags), [5, 17, 1, 70, 4100, 3, 64, 130])
    outside = np.full((1, len(decoder.tags)), -1e4)
    outside[0, 0] = 0
    joined = decoder.decode(np.concatenate([part for text in texts for part in (text, outside)]))
    alone, start = [], 0
    for text in texts:
        alone += [(start + s.first, start + s.last, s.label, s.score) for s in decoder.decode(text)]
        start += len(text) + 1
    assert [span[:3] for span in joined] == [span[:3] for span in alone]
    assert [span[3] for span in joined] == pytest.approx([span[3] for span in alone], rel=1e-8)


def test_temperature_softens_scores_and_changes_no_entity() -> None:
    values = np.random.default_rng(5).normal(0, 4, (50, 5))
    cold, warm = (Decoder(tags_of(LABELS, "IOB2"), "IOB2", t) for t in (1.0, 3.0))
    assert [s[:3] for s in cold.decode(values)] == [s[:3] for s in warm.decode(values)]
    assert sum(s.score for s in warm.decode(values)) < sum(s.score for s in cold.decode(values))
