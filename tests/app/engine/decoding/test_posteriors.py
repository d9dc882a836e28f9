import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.posteriors import RESCALE, Chain
from app.labels import Scheme, tags_of
from tests.spellings import LABELS, legal_sequences, schemes


@schemes
@given(
    weights=st.lists(st.lists(st.floats(0.01, 1), min_size=9, max_size=9), min_size=1, max_size=4),
    rescale=st.sampled_from([1, 2, RESCALE]),
    data=st.data(),
)
def test_the_probability_of_an_entity_is_that_of_all_sequences_that_spell_it(
    scheme: Scheme, weights: list[list[float]], rescale: int, data: st.DataObject
) -> None:
    """Its own tags weigh one, as the chain asks for, and others no more."""
    tags = tags_of(LABELS, scheme)
    chain = Chain(tags, scheme)
    values = np.array(weights)[:, : len(tags)]
    sequences = legal_sequences(len(values), scheme)
    sequence = data.draw(st.sampled_from([one for one, spans in sequences.items() if spans]))
    for at, tag in enumerate(sequence):
        values[at, tags.index(tag)] = 1

    def weight(tags_of_one: tuple[str, ...]) -> float:
        return float(np.prod([values[at, tags.index(tag)] for at, tag in enumerate(tags_of_one)]))

    total = sum(map(weight, sequences))
    mentions = [(first, last, chain.labels.index(label)) for first, last, label in sequences[sequence]]
    found = chain.posteriors(chain.weights(values), mentions, rescale)
    for span, score in zip(sequences[sequence], found, strict=True):
        exact = sum(weight(one) for one, spans in sequences.items() if span in spans) / total
        assert score == pytest.approx(exact, rel=1e-9)
