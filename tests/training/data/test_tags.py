import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.labels import Scheme
from tests.training.data.tagging import SCHEMES, Tagged, sentences, spell
from training.data.tags import detect_scheme, illegal_tags, plain_tag, read_spans, spell_spans


@pytest.mark.parametrize("scheme", SCHEMES)
@given(tagged=sentences())
def test_what_is_spelled_is_read(scheme: Scheme, tagged: Tagged) -> None:
    assume(scheme != "IO" or not tagged.touch())
    tags = spell(tagged, scheme)
    assert read_spans(tags, scheme) == tagged.runs
    assert illegal_tags(tags, scheme) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@given(corpus=st.lists(sentences(), max_size=6))
def test_the_detected_scheme_reads_what_was_meant(scheme: Scheme, corpus: list[Tagged]) -> None:
    assume(scheme != "IO" or not any(tagged.touch() for tagged in corpus))
    tags = [spell(tagged, scheme) for tagged in corpus]
    detected = detect_scheme(tags)
    assert [read_spans(one, detected) for one in tags] == [tagged.runs for tagged in corpus]
    assert not any(illegal_tags(one, detected) for one in tags)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["I-PER", "O", "I-LOC"], "IO"),
        (["I-PER", "B-PER", "O", "I-LOC"], "IOB1"),
        (["B-PER", "I-PER", "O", "B-LOC"], "IOB2"),
        (["B-PER", "E-PER", "O", "S-LOC"], "BIOES"),
        (["O", "O"], "IOB2"),
    ],
)
def test_each_scheme_is_known_by_its_tags(tags: list[str], scheme: Scheme) -> None:
    assert detect_scheme([tags]) == scheme
    assert detect_scheme(iter([["O"], tags])) == scheme


def test_one_slip_does_not_change_the_scheme() -> None:
    good = [["B-PER", "I-PER", "O"]] * 9
    assert detect_scheme([*good, ["O", "I-LOC"]]) == "IOB2"
    neighbours = [["I-PER", "B-PER", "O"]] * 9
    assert detect_scheme([*neighbours, ["O", "B-LOC"]]) == "IOB1"


@pytest.mark.parametrize(
    ("tag", "plain"),
    [
        ("B_PER", "B-PER"),
        ("U-PER", "S-PER"),
        ("L-PER", "E-PER"),
        ("M-PER", "I-PER"),
        ("W-PER", "S-PER"),
        ("B-creative-work", "B-creative-work"),
        ("O", "O"),
    ],
)
def test_other_spellings_become_ours(tag: str, plain: str) -> None:
    assert plain_tag(tag) == plain


@pytest.mark.parametrize(
    ("tags", "scheme", "positions"),
    [
        (["O", "I-PER"], "IOB2", [1]),
        (["B-PER", "I-LOC"], "IOB2", [1]),
        (["B-PER", "O"], "IOB1", [0]),
        (["B-PER", "O"], "IO", [0]),
        (["B-PER", "O", "S-LOC"], "BIOES", [1]),
        (["O", "B-PER"], "BIOES", [1]),
        (["E-PER", "O"], "IOB2", [0]),
    ],
)
def test_illegal_tags_are_found(tags: list[str], scheme: Scheme, positions: list[int]) -> None:
    assert illegal_tags(tags, scheme) == positions


def test_an_illegal_tag_is_read_as_a_start() -> None:
    assert read_spans(["O", "I-PER", "I-LOC"], "IOB2") == [(1, 1, "PER"), (2, 2, "LOC")]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(tagged=sentences())
def test_spans_are_spelled_as_corpora_spell_them(scheme: Scheme, tagged: Tagged) -> None:
    assert spell_spans(tagged.runs, len(tagged.tokens), scheme) == spell(tagged, scheme)
