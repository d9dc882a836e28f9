"""A text that is joined from its pieces is the text that is encoded as a whole."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from app.engine.text.token_cache import LONGEST_TEXT, TokenCache, end_marks
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.labels import WordRule
from tests.texts import AWKWARD, texts
from tests.tiny import TEXT, tiny_tokenizer


def marked() -> RustTokenizer:
    """Reads `#` and `@` in another way before a blank."""
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\#(?=\s)"), "."),
            normalizers.Replace(Regex(r"@(?=\s)"), "a"),
            normalizers.BertNormalizer(lowercase=True),
        ]
    )
    return tokenizer


KINDS: dict[str, Callable[[], RustTokenizer]] = {"plain": tiny_tokenizer, "marked": marked}
RULES: list[WordRule] = ["bert", "space"]
TOKENIZERS = {(kind, rule): Tokenizer(make(), rule) for kind, make in KINDS.items() for rule in RULES}
kinds = pytest.mark.parametrize("kind", KINDS)
rules = pytest.mark.parametrize("rule", RULES)

pieced = st.lists(
    st.one_of(st.sampled_from([*AWKWARD, " ", " ", "  ", "#", "@", "# ", "@ "]), texts), max_size=10
).map("".join)


def values(encoded: EncodedText) -> list[list[int]]:
    return [getattr(encoded, name).tolist() for name in ("ids", "shapes", "firsts", "starts", "ends")]


@kinds
@rules
@given(batch=st.lists(pieced, min_size=1, max_size=4))
def test_a_text_is_its_pieces(kind: str, rule: WordRule, batch: list[str]) -> None:
    tokenizer = TOKENIZERS[kind, rule]
    whole = [values(encoded) for encoded in tokenizer.encode_whole(batch)]
    assert [values(encoded) for encoded in tokenizer.encode(batch)] == whole
    assert [values(encoded) for encoded in tokenizer.encode(batch)] == whole  # now from what is kept


@kinds
@given(text=pieced)
def test_sub_tokens_are_those_of_the_rust_tokenizer(kind: str, text: str) -> None:
    rust = KINDS[kind]()
    rust.encode_special_tokens = True
    (encoded,) = TOKENIZERS[kind, "bert"].encode([text])
    assert encoded.ids.tolist() == rust.encode(text, add_special_tokens=False).ids


def test_little_is_kept() -> None:
    pieces = TokenCache(tiny_tokenizer(), (), "bert", kept=4)
    expected = [values(encoded) for encoded in Tokenizer(tiny_tokenizer()).encode_whole([TEXT])]
    for _ in range(3):
        assert [values(encoded) for encoded in pieces.encode([TEXT]) if encoded] == expected


@pytest.mark.parametrize(
    "text",
    [
        "Angela \u200b IBM",  # a word without a sub-token joins the word before it
        "x" * LONGEST_TEXT,
        "Angela @",
    ],
)
def test_some_texts_are_not_joined(text: str) -> None:
    assert TokenCache(marked(), ("#", "@"), "bert").encode([text, "IBM"])[0] is None
    assert TokenCache(marked(), ("#", "@"), "bert").encode([text, "IBM"])[1] is not None


def test_a_piece_of_any_length_is_joined() -> None:
    text = "IBM " + "x." * 200 + " Angela"
    tokenizer = TOKENIZERS["plain", "bert"]
    assert values(tokenizer.encode([text])[0]) == values(tokenizer.encode_whole([text])[0])


def test_what_ends_a_text_otherwise_than_a_piece() -> None:
    assert end_marks(tiny_tokenizer()) == ()
    assert end_marks(marked()) == ("#", "@")


def with_added_token() -> RustTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("new york")])
    return tokenizer


def with_a_wide_look() -> RustTokenizer:
    tokenizer = tiny_tokenizer()
    replace = normalizers.Replace(Regex(r"a(?= b)"), "c")
    tokenizer.normalizer = normalizers.Sequence([replace, normalizers.BertNormalizer()])
    return tokenizer


def with_bytes() -> RustTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    return tokenizer


def without_normalizer() -> RustTokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([])
    return tokenizer


@pytest.mark.parametrize("make", [with_added_token, with_a_wide_look, with_bytes, without_normalizer])
def test_tokenizers_that_look_beyond_a_piece_encode_whole_texts(make: Callable[[], RustTokenizer]) -> None:
    assert end_marks(make()) is None
    tokenizer = Tokenizer(make())
    assert values(tokenizer.encode(["a b new york"])[0]) == values(
        tokenizer.encode_whole(["a b new york"])[0]
    )
