import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.text.alignment import EncodedText, touched
from app.engine.text.words import split_words
from tests.texts import texts
from tests.tiny import VOCABULARY
from tests.tokenizer_kinds import TOKENIZERS

kinds = pytest.mark.parametrize("kind", TOKENIZERS)


def decisions(text: str, encoded: EncodedText) -> list[str]:
    return [text[start:end] for start, end in zip(encoded.starts, encoded.ends, strict=True)]


@kinds
@given(text=texts)
def test_decisions_hold_every_word_whole_and_once(kind: str, text: str) -> None:
    (encoded,) = TOKENIZERS[kind].encode([text])
    if not len(encoded.firsts):
        return
    words = split_words(text)
    starts, ends = encoded.starts.tolist(), encoded.ends.tolist()
    assert set(starts) <= set(words.starts.tolist())
    assert set(ends) <= set(words.ends.tolist())
    assert starts[0] == words.starts[0]
    assert ends[-1] == words.ends[-1]
    for end, start in zip(ends, starts[1:], strict=False):
        assert end <= start
        assert not text[end:start].strip()


@kinds
@given(text=texts)
def test_each_decision_is_read_from_a_sub_token_of_its_own(kind: str, text: str) -> None:
    (encoded,) = TOKENIZERS[kind].encode([text])
    assert (np.diff(encoded.firsts) > 0).all()
    assert all(0 <= first < len(encoded) for first in encoded.firsts)
    assert len(encoded.shapes) == len(encoded.ids)


def test_a_word_is_read_from_its_first_sub_token() -> None:
    (encoded,) = TOKENIZERS["wordpiece"].encode(["in Paris IBM"])
    assert [VOCABULARY[i] for i in encoded.ids[encoded.firsts]] == ["i", "p", "ibm"]
    assert encoded.firsts.tolist() == [0, 2, 7]


def test_words_that_share_a_sub_token_are_one_decision() -> None:
    text = "the U.S. law"
    (encoded,) = TOKENIZERS["blank-separated"].encode([text])
    assert decisions(text, encoded) == ["the", "U.S.", "law"]


def test_a_word_without_a_sub_token_joins_the_one_before() -> None:
    text = "Angela \u200b IBM"
    (encoded,) = TOKENIZERS["wordpiece"].encode([text])
    assert decisions(text, encoded) == ["Angela \u200b", "IBM"]


def test_at_the_start_it_joins_the_one_after() -> None:
    text = "\u200b Angela IBM"
    (encoded,) = TOKENIZERS["wordpiece"].encode([text])
    assert decisions(text, encoded) == ["\u200b Angela", "IBM"]


def test_shapes_are_those_of_the_word_a_sub_token_begins_in() -> None:
    (encoded,) = TOKENIZERS["wordpiece"].encode(["Merkel IBM in 2024."])
    assert encoded.shapes.tolist() == [2, 3, 1, 1, 5, 5, 5, 5, 0]


@given(text=texts, start=st.integers(0, 60), length=st.integers(1, 20))
def test_a_stretch_touches_the_words_that_share_a_character_with_it(
    text: str, start: int, length: int
) -> None:
    words = split_words(text)
    first, last = map(int, touched(words.starts, words.ends, start, start + length))
    shared = [
        number
        for number, (low, high) in enumerate(zip(words.starts, words.ends, strict=True))
        if low < start + length and high > start
    ]
    assert list(range(first, last + 1)) == shared
