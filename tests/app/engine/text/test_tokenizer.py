from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.words import split_words
from tests.texts import texts
from tests.tiny import TEXT, VOCABULARY, tiny_tokenizer
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


@kinds
@given(text=texts, other=texts)
def test_texts_do_not_affect_each_other(kind: str, text: str, other: str) -> None:
    (alone,) = TOKENIZERS[kind].encode([text])
    _, together, _ = TOKENIZERS[kind].encode([other, text, other + text])
    for name in ("ids", "shapes", "firsts", "starts", "ends"):
        assert getattr(alone, name).tolist() == getattr(together, name).tolist()


@given(text=texts)
def test_byte_level_sub_tokens_leave_no_word_out(text: str) -> None:
    (encoded,) = TOKENIZERS["byte-level"].encode([text])
    assert len(encoded.firsts) or not text.strip()


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


def test_a_special_token_in_a_text_is_text() -> None:
    (encoded,) = TOKENIZERS["wordpiece"].encode(["[SEP] [PAD] [CLS]"])
    specials = {VOCABULARY.index(token) for token in ("[SEP]", "[PAD]", "[CLS]")}
    assert not specials & set(encoded.ids.tolist())


def test_shapes_are_those_of_the_word_a_sub_token_begins_in() -> None:
    (encoded,) = TOKENIZERS["wordpiece"].encode(["Merkel IBM in 2024."])
    assert encoded.shapes.tolist() == [2, 3, 1, 1, 5, 5, 5, 5, 0]


def test_special_tokens_go_around_a_window() -> None:
    wordpiece = TOKENIZERS["wordpiece"]
    assert [VOCABULARY[i] for i in wordpiece.prefix + wordpiece.suffix] == ["[CLS]", "[SEP]"]
    assert wordpiece.specials == 2
    assert TOKENIZERS["sentence-piece"].specials == 0


@pytest.mark.parametrize(
    ("kind", "pad"), [("wordpiece", 0), ("byte-level", 1), ("sentence-piece", 0), ("blank-separated", 0)]
)
def test_padding(kind: str, pad: int) -> None:
    assert TOKENIZERS[kind].pad_id == pad


def test_long_texts_are_not_truncated_whatever_the_file_says(tmp_path: Path) -> None:
    rust = tiny_tokenizer()
    rust.enable_truncation(8)
    rust.enable_padding(length=8)
    rust.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert len(tokenizer.encode(["IBM " * 100])[0]) == 100
    assert len(tokenizer.encode(["IBM"])[0]) == 1


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZERS["wordpiece"].save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.encode([TEXT])[0].ids.tolist() == TOKENIZERS["wordpiece"].encode([TEXT])[0].ids.tolist()


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "sentence-piece"])
def test_samples_are_texts_of_different_sub_tokens(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    samples = tokenizer.samples(20)
    assert 20 <= len(samples) < 40
    assert samples == [sample.strip() for sample in samples]
    seen = {int(number) for encoded in tokenizer.encode(samples) for number in encoded.ids}
    assert len(seen) > 5


def test_a_sub_token_has_a_name() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    assert tokenizer.token(VOCABULARY.index("angela")) == "angela"
