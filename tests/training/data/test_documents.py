from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from tests.texts import texts
from training.data.documents import Document, Span, text_key, without_overlap

spans = st.builds(
    lambda start, length, label: Span(start, start + length, label),
    st.integers(0, 20),
    st.integers(1, 8),
    st.sampled_from(["PER", "ORG"]),
)


def overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


# keys


def test_spellings_of_one_text_have_one_key() -> None:
    assert Document("a", "The U.S. left - New York !").key == Document("b", "the us left New  York").key
    assert Document("a", "Straße 5").key != Document("a", "Straße 6").key


def test_a_text_of_marks_alone_is_told_from_others() -> None:
    assert len({text_key(text) for text in (" ... ", "...", "!?", "", " ")}) == 3


@given(texts)
def test_the_key_of_a_key_is_itself(text: str) -> None:
    assert text_key(text_key(text)) == text_key(text)


def test_names_are_equal_for_two_spellings_of_one_annotation() -> None:
    spaced = Document("a", "U. S. beat Jean - Pierre", (Span(0, 5, "LOC"), Span(11, 24, "PER")))
    natural = Document("b", "US beat Jean-Pierre", (Span(0, 2, "LOC"), Span(8, 19, "PER")))
    assert spaced.names == natural.names == [("us", "LOC"), ("jeanpierre", "PER")]


# overlap


@given(st.lists(spans, max_size=12))
def test_what_is_kept_is_ascending_without_overlap_and_nothing_fits_beside_it(given: list[Span]) -> None:
    kept = without_overlap(given)
    assert list(kept) == sorted(kept)
    assert not any(overlap(one, other) for one, other in combinations(kept, 2))
    for dropped in {*given} - {*kept}:
        rivals = [one for one in kept if overlap(one, dropped)]
        assert any(one.end - one.start >= dropped.end - dropped.start for one in rivals)


@given(st.data(), st.lists(spans, max_size=12))
def test_what_is_kept_depends_on_no_order_and_no_repetition(data: st.DataObject, given: list[Span]) -> None:
    shuffled = data.draw(st.permutations([*given, *given]))
    assert without_overlap(shuffled) == without_overlap(given)


def test_of_two_that_overlap_the_longer_stays_and_of_equals_the_first() -> None:
    assert without_overlap([Span(0, 2, "PER"), Span(1, 4, "ORG")]) == (Span(1, 4, "ORG"),)
    assert without_overlap([Span(1, 3, "PER"), Span(0, 2, "ORG")]) == (Span(0, 2, "ORG"),)
    assert without_overlap([Span(2, 4, "PER"), Span(0, 2, "ORG")]) == (Span(0, 2, "ORG"), Span(2, 4, "PER"))
