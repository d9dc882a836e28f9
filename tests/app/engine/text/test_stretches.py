"""A text that is joined from its stretches is the text that is encoded as a whole."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers

from app.engine.text.alignment import align
from app.engine.text.stretches import STRETCH, Stretches, join_stretches
from app.engine.text.token_cache import end_marks
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.labels import WordRule
from tests.app.engine.text.test_token_cache import KINDS, RULES, pieced, values
from tests.texts import AWKWARD
from tests.tiny import tiny_tokenizer


def accented() -> RustTokenizer:
    """Keeps case and accents, and does not part Han characters."""
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=False, strip_accents=False, handle_chinese_chars=False
    )
    return tokenizer


MAKERS: dict[str, Callable[[], RustTokenizer]] = {**KINDS, "accented": accented}
MADE = {(kind, rule): (Tokenizer(make(), rule), make()) for kind, make in MAKERS.items() for rule in RULES}
CUTS = {key: Stretches(rust, end_marks(rust) or (), key[1]) for key, (_, rust) in MADE.items()}

crowded = st.lists(
    st.one_of(st.sampled_from([*AWKWARD, *"!?.…。«#@$ \n\u3000\u200bab", "北京", "# ", "@ "]), pieced),
    max_size=12,
).map("".join)


@given(key=st.sampled_from(list(MADE)), text=crowded, size=st.integers(1, 6))
def test_a_text_is_its_stretches(key: tuple[str, WordRule], text: str, size: int) -> None:
    (tokenizer, rust), rule = MADE[key], key[1]
    rust.encode_special_tokens = True
    stretches = list(CUTS[key].cut(text, size))
    assert "".join(stretches) == text
    parts = [align([one], [rust.encode(one, add_special_tokens=False)], rule) for one in stretches]
    assert values(join_stretches(parts, stretches, rule)) == values(tokenizer.encode_whole([text])[0])


@pytest.mark.parametrize(
    "text", ["! " * 50, "!" * 100, "北" * 100, "。" * 100, "ab " * 33, "ab\n" * 33, "ёж " * 33, "a,b" * 33]
)
def test_a_text_of_short_words_has_short_stretches(text: str) -> None:
    assert max(map(len, CUTS["plain", "bert"].cut(text, 10))) <= 10


def test_a_word_stays_whole() -> None:
    text = "a " + "b" * 100 + " c"
    assert list(CUTS["plain", "bert"].cut(text, 10)) == ["a ", "b" * 100 + " ", "c"]
    assert list(CUTS["plain", "space"].cut("a.b.c.d.e f", 3)) == ["a.b.c.d.e ", "f"]


def test_a_long_text_is_encoded_step_by_step() -> None:
    tokenizer = Tokenizer(tiny_tokenizer())
    text = "Angela Merkel, " * (20 * STRETCH // 15)
    *steps, encoded = tokenizer.encode_gradually(text)
    assert len(steps) >= 5
    assert not any(steps)
    whole = tokenizer.encode_whole([text, "IBM"])
    assert isinstance(encoded, EncodedText)
    assert values(encoded) == values(whole[0]) == values(tokenizer.encode([text])[0])
    assert encoded.ends[-1] == len(text) - 1
    assert len(whole[1]) == 1
    (short,) = tokenizer.encode_gradually("IBM")
    assert short is not None
    assert values(short) == values(whole[1])
