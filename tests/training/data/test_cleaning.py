import pytest

from training.data.cleaning import CLEANING
from training.data.documents import Document, Span


def cleaned(step: str, text: str, *surfaces: str, label: str = "LOC") -> list[str]:
    """The surfaces of the entities that are left."""
    spans = tuple(Span(text.index(s), text.index(s) + len(s), label) for s in surfaces)
    document = CLEANING[step](Document("d", text, spans))
    return [text[start:end] for start, end, _ in document.spans]


@pytest.mark.parametrize(
    ("surface", "left"),
    [
        ("the Kestrel Bay", "Kestrel Bay"),
        ("The  Kestrel Bay", "Kestrel Bay"),
        ("a Kestrel", "Kestrel"),
        ("Theale", "Theale"),
        ("the", "the"),
    ],
)
def test_articles_are_no_part_of_a_name(surface: str, left: str) -> None:
    assert cleaned("articles", f"in {surface} it rains", surface) == [left]


@pytest.mark.parametrize("surface", ["German", "Germans", "South Koreans", "Anglo-Norman", "Englishmen"])
def test_people_of_a_place_are_no_place(surface: str) -> None:
    assert cleaned("demonyms", f"the {surface} left", surface) == []


@pytest.mark.parametrize("surface", ["Germany", "Japan", "Shanghai", "South Korea", "Rome", "Netherlands"])
def test_places_stay(surface: str) -> None:
    assert cleaned("demonyms", f"in {surface} it rains", surface) == [surface]


def test_descriptions_and_pronouns_are_no_names() -> None:
    text = "I saw Bank of Lund clerks with Captain Ada de Lund , 5 of them"
    left = cleaned("names", text, "I", "Bank of Lund", "clerks", "Captain Ada de Lund", "of", label="ORG")
    assert left == ["Bank of Lund", "Captain Ada de Lund"]


@pytest.mark.parametrize("pronoun", ["I", "We", "They", "Her"])
def test_a_pronoun_is_no_name_where_a_sentence_starts(pronoun: str) -> None:
    assert cleaned("names", f"{pronoun} met the US in Lund", pronoun, "US", label="ORG") == ["US"]


def test_the_mark_before_a_handle_is_labelled_as_the_name() -> None:
    text = "@ lund met @ kestrel in @ bay and lund"
    spans = (Span(2, 6, "PER"), Span(13, 20, "ORG"), Span(26, 29, "LOC"), Span(34, 38, "PER"))
    document = CLEANING["handles"](Document("d", text, spans))
    assert [(text[a:b], label) for a, b, label in document.spans] == [
        ("@", "PER"),
        ("lund", "PER"),
        ("@", "ORG"),
        ("kestrel", "ORG"),
        ("bay", "LOC"),
        ("lund", "PER"),
    ]
    assert CLEANING["handles"](document) == document


@pytest.mark.parametrize("step", sorted(CLEANING))
def test_a_text_without_entities_stays_as_it_is(step: str) -> None:
    document = Document("d", "The Dutch met @ lund", (), "g")
    assert CLEANING[step](document) == document


def test_of_nested_entities_the_longest_stays() -> None:
    surfaces = ("Captain Ada Lund", "Ada Lund", "Kestrel Bay")
    left = cleaned("nested", "Captain Ada Lund left Kestrel Bay", *surfaces)
    assert left == ["Captain Ada Lund", "Kestrel Bay"]
