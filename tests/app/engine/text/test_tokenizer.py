from pathlib import Path

import pytest
from hypothesis import given

from app.engine.text.tokenizer import Tokenizer
from tests.texts import texts
from tests.tiny import TEXT, VOCABULARY, tiny_tokenizer
from tests.tokenizer_kinds import TOKENIZERS

kinds = pytest.mark.parametrize("kind", TOKENIZERS)


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


def test_a_special_token_in_a_text_is_text() -> None:
    (encoded,) = TOKENIZERS["wordpiece"].encode(["[SEP] [PAD] [CLS]"])
    specials = {VOCABULARY.index(token) for token in ("[SEP]", "[PAD]", "[CLS]")}
    assert not specials & set(encoded.ids.tolist())


def test_special_tokens_go_around_a_window() -> None:
    wordpiece = TOKENIZERS["wordpiece"]
    assert [VOCABULARY[i] for i in wordpiece.frame.prefix + wordpiece.frame.suffix] == ["[CLS]", "[SEP]"]
    assert wordpiece.frame.count == 2
    assert TOKENIZERS["sentence-piece"].frame.count == 0


@pytest.mark.parametrize(
    ("kind", "pad"), [("wordpiece", 0), ("byte-level", 1), ("sentence-piece", 0), ("blank-separated", 0)]
)
def test_padding(kind: str, pad: int) -> None:
    assert TOKENIZERS[kind].frame.pad_id == pad


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
