import pytest
from hypothesis import given

from app.engine.text.words import split_words
from app.labels import WordRule
from tests.texts import texts


def words(text: str, rule: WordRule = "bert") -> list[str]:
    found = split_words(text, rule)
    return [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]


@pytest.mark.parametrize("rule", ["bert", "space"])
@given(text=texts)
def test_words_cover_every_character_that_is_not_blank_once(rule: WordRule, text: str) -> None:
    found = split_words(text, rule)
    covered = [0] * len(text)
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        assert start < end
        for at in range(start, end):
            covered[at] += 1
    assert covered == [0 if char.isspace() else 1 for char in text]


@given(text=texts)
def test_words_come_in_the_order_of_the_text(text: str) -> None:
    found = split_words(text)
    assert (found.starts[1:] >= found.ends[:-1]).all()


@given(text=texts)
def test_every_word_has_a_shape(text: str) -> None:
    found = split_words(text)
    assert len(found.shapes) == len(found)
    assert set(found.shapes.tolist()) <= set(range(6))


@given(text=texts)
def test_blank_separated_words_are_those_of_split(text: str) -> None:
    assert words(text, "space") == text.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("U.S. law", ["U", ".", "S", ".", "law"]),
        ("Jean-Pierre", ["Jean", "-", "Pierre"]),
        ("$5<6", ["$", "5", "<", "6"]),
        ("去北京2024年", ["去", "北", "京", "2024", "年"]),
        ("東京タワー", ["東", "京", "タワー"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("👩‍🚀 flew", ["👩‍🚀", "flew"]),
        ("„Ja“…", ["„", "Ja", "“", "…"]),
        ("a\u00a0b\u3000c\u2028d", ["a", "b", "c", "d"]),
        ("\x00", ["\x00"]),
        ("", []),
        (" \n\t\r", []),
    ],
)
def test_a_word_is_a_run_without_blanks_punctuation_and_han(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_blank_separated_words_keep_their_punctuation() -> None:
    assert words("Jean-Pierre, U.S.", "space") == ["Jean-Pierre,", "U.S."]


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("…", 0),
        ("北", 0),
        ("सिंह", 0),
        ("house", 1),
        ("house7", 1),
        ("House", 2),
        ("H", 2),
        ("IBM", 3),
        ("B52", 2),
        ("BA52", 3),
        ("McDonald", 4),
        ("iPhone", 4),
        ("2024", 5),
        ("٣٤", 5),
        ("Übung", 2),
        ("ÉTÉ", 3),
    ],
)
def test_shapes(word: str, shape: int) -> None:
    assert split_words(f"x {word} x").shapes.tolist() == [1, shape, 1]
