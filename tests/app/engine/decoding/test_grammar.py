"""The grammar against its definition: the legal tag sequences are the spellings of all sets of spans."""

import itertools

from app.engine.decoding.grammar import grammar
from app.labels import Scheme, tags_of
from tests.spellings import LABELS, legal_sequences, schemes


@schemes
def test_the_grammar_is_that_of_all_spellings(scheme: Scheme) -> None:
    tags = tags_of(LABELS, scheme)
    rules = grammar(tags, scheme)
    legal = {
        sequence
        for sequence in itertools.product(range(len(tags)), repeat=3)
        if rules.first[sequence[0]]
        and rules.final[sequence[-1]]
        and rules.legal[sequence[0], sequence[1]]
        and rules.legal[sequence[1], sequence[2]]
    }
    assert {tuple(tags[tag] for tag in sequence) for sequence in legal} == set(legal_sequences(3, scheme))
