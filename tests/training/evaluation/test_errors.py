import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.evaluation.answers import Answers, Found
from training.evaluation.errors import (
    KINDS,
    NONE,
    Kind,
    Pair,
    Recall,
    analyse,
    confusion,
    pair,
    seen_mentions,
)
from training.evaluation.spans import score

LABELS = ("PER", "LOC")
TEXT = "0123456789" * 3

spans = st.lists(
    st.builds(
        lambda start, length, label: Span(start, start + length, label),
        st.integers(0, 20),
        st.integers(1, 6),
        st.sampled_from(["PER", "LOC", "DATE"]),
    ),
    max_size=6,
)
corpora = st.lists(st.tuples(spans, spans), min_size=1, max_size=5)


def answers(*documents: tuple[list[Span], list[Span]], text: str = TEXT) -> Answers:
    """Answers from what was meant and what was found, document by document."""
    return Answers(
        "c",
        tuple(Document(f"c:{n}", text, tuple(meant)) for n, (meant, _) in enumerate(documents)),
        tuple(tuple(Found(*span, 0.5) for span in found) for _, found in documents),
    )


@pytest.mark.parametrize(
    ("meant", "found", "kind"),
    [
        (Span(2, 5, "PER"), Span(2, 5, "PER"), "right"),
        (Span(2, 5, "PER"), Span(2, 6, "PER"), "boundary"),
        (Span(2, 5, "PER"), Span(4, 6, "PER"), "boundary"),
        (Span(2, 5, "PER"), Span(2, 5, "LOC"), "type"),
        (Span(2, 5, "PER"), Span(3, 5, "LOC"), "boundary and type"),
    ],
)
def test_two_entities_that_overlap_are_one_error(meant: Span, found: Span, kind: Kind) -> None:
    report = analyse(answers(([meant], [found])), LABELS, ())
    assert report.counts == {k: {"PER": int(k == kind), "LOC": 0} for k in KINDS}
    assert report.total(kind) == 1


def test_two_entities_that_touch_are_two_errors() -> None:
    report = analyse(answers(([Span(2, 5, "PER")], [Span(5, 8, "LOC")])), LABELS, ())
    assert report.counts["missed"] == {"PER": 1, "LOC": 0}
    assert report.counts["spurious"] == {"PER": 0, "LOC": 1}
    assert sum(map(report.total, KINDS)) == 2


def test_an_entity_is_paired_with_what_overlaps_it_most() -> None:
    meant, short, long = Span(0, 10, "PER"), Found(0, 3, "PER", 0.9), Found(4, 10, "LOC", 0.9)
    assert pair([meant], [short, long]) == [Pair(None, short), Pair(meant, long)]


def test_what_is_exactly_right_is_paired_first() -> None:
    wide, narrow = Span(0, 10, "PER"), Span(2, 4, "LOC")
    found = [Found(0, 9, "LOC", 0.9), Found(2, 4, "LOC", 0.9)]
    assert pair([wide, narrow], found) == [Pair(wide, found[0]), Pair(narrow, found[1])]


def test_of_equal_overlaps_the_same_label_comes_first() -> None:
    meant = Span(2, 8, "LOC")
    left, right = Found(0, 4, "PER", 0.9), Found(6, 9, "LOC", 0.9)
    assert Pair(meant, right) in pair([meant], [left, right])


@given(spans, spans)
def test_every_entity_is_in_exactly_one_pair(meant: list[Span], found: list[Span]) -> None:
    pairs = pair(meant, [Found(*span, 0.5) for span in found])
    assert sorted(one.meant for one in pairs if one.meant) == sorted(set(meant))
    assert sorted(one.found.span for one in pairs if one.found) == sorted(set(found))
    for one in pairs:
        if one.meant and one.found:
            assert one.meant.start < one.found.end
            assert one.found.start < one.meant.end


@given(corpora)
def test_the_kinds_add_up_to_what_was_found_and_meant(pairs: list[tuple[list[Span], list[Span]]]) -> None:
    some = answers(*pairs)
    report = analyse(some, LABELS, ())
    overall = score(some.spans, [document.spans for document in some.documents], LABELS).overall
    total = {kind: report.total(kind) for kind in KINDS}
    assert total["right"] == overall.right
    assert sum(total.values()) - total["missed"] == overall.found
    assert sum(total.values()) - total["spurious"] == overall.meant
    assert report.unseen == Recall(overall.right, overall.meant)


@given(corpora)
def test_a_confusion_matrix_holds_every_entity(pairs: list[tuple[list[Span], list[Span]]]) -> None:
    some, names = answers(*pairs), (*LABELS, "DATE")
    matrix, report = confusion(some, names), analyse(some, names, ())
    assert matrix.names == (*names, NONE)
    assert matrix.counts[:-1].sum() == sum(len(set(meant)) for meant, _ in pairs)
    assert matrix.counts[:, :-1].sum() == sum(len(set(found)) for _, found in pairs)
    assert matrix.counts[-1].tolist() == [*report.counts["spurious"].values(), 0]
    assert matrix.counts[:, -1].tolist() == [*report.counts["missed"].values(), 0]
    assert np.trace(matrix.counts) == report.total("right") + report.total("boundary")


def test_a_confusion_matrix_by_hand() -> None:
    matrix = confusion(
        answers(
            ([Span(0, 3, "PER"), Span(5, 8, "PER")], [Span(0, 3, "PER"), Span(5, 9, "LOC")]),
            ([Span(0, 3, "LOC")], [Span(0, 3, "DATE"), Span(10, 12, "LOC")]),
        ),
        LABELS,
    )
    assert matrix.names == ("PER", "LOC", "none")
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]  # DATE does not count


def test_recall_of_seen_and_unseen_mentions() -> None:
    text = "Ada met ADA in Bay , Lund"
    train = LoadedCorpus("t", (Document("t", "ada of Bay", (Span(0, 3, "PER"), Span(7, 10, "PER"))),))
    seen = seen_mentions([train])
    assert seen == {("ada", "PER"), ("bay", "PER")}
    meant = [Span(0, 3, "PER"), Span(8, 11, "PER"), Span(15, 18, "LOC"), Span(21, 25, "LOC")]
    report = analyse(answers((meant, [meant[0], meant[3]]), text=text), LABELS, seen)
    assert report.seen == Recall(1, 2)
    assert report.unseen == Recall(1, 2)  # a place called Bay was never seen
    assert report.seen.value == 50.0
    assert Recall(0, 0).value == 0.0


def test_examples_show_the_text_around() -> None:
    text = "a" * 60 + "Ada Lund" + "b" * 60
    report = analyse(answers(([Span(60, 68, "PER")], [Span(60, 63, "PER")]), text=text), LABELS, ())
    (example,) = report.examples["boundary"]
    assert (example.corpus, example.document, example.start) == ("c", "c:0", 20)
    assert example.excerpt == "a" * 40 + "Ada Lund" + "b" * 40
    assert (example.meant_text, example.found_text) == ("Ada Lund", "Ada")
    assert "right" not in report.examples


@given(corpora, st.integers(0, 3))
def test_examples_are_few_and_true(pairs: list[tuple[list[Span], list[Span]]], most: int) -> None:
    some = answers(*pairs)
    report = analyse(some, LABELS, (), examples=most)
    texts = {document.id: document.text for document in some.documents}
    for kind, examples in report.examples.items():
        assert len(examples) == len(set(examples)) == min(most, report.total(kind))
        for example in examples:
            assert Pair(example.meant, example.found).kind == kind
            for span, cut in ((example.meant, example.meant_text), (example.found, example.found_text)):
                assert cut == (texts[example.document][span.start : span.end] if span else "")


def test_examples_are_spread_over_the_corpus() -> None:
    missed = [([Span(0, 3, "PER")], [])] * 10
    examples = analyse(answers(*missed), LABELS, (), examples=2).examples["missed"]
    assert [example.document for example in examples] == ["c:0", "c:5"]
