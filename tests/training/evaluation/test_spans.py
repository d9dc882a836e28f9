from hypothesis import given
from hypothesis import strategies as st

from training.data.documents import Span
from training.evaluation.spans import Percentages, Score, score

spans = st.lists(
    st.builds(
        lambda start, length, label: Span(start, start + length, label),
        st.integers(0, 20),
        st.integers(1, 5),
        st.sampled_from(["PER", "LOC"]),
    ),
    max_size=6,
    unique=True,
)
corpora = st.lists(st.tuples(spans, spans), max_size=6)


def test_an_entity_counts_when_span_and_label_are_right() -> None:
    found = [[Span(0, 3, "PER"), Span(4, 8, "LOC"), Span(9, 12, "LOC")], []]
    meant = [[Span(0, 3, "PER"), Span(4, 8, "PER"), Span(9, 13, "LOC")], [Span(0, 3, "PER")]]
    scores = score(found, meant, ["PER", "LOC"])
    assert scores.overall == Score(right=1, found=3, meant=4)
    assert scores.labels == {"PER": Score(1, 1, 3), "LOC": Score(0, 2, 1)}
    assert scores.overall.percentages == Percentages(33.33, 25.0, 28.57, 4)


def test_the_same_span_in_another_text_is_not_right() -> None:
    assert score([[Span(0, 3, "PER")], []], [[], [Span(0, 3, "PER")]], ["PER"]).overall.right == 0


def test_nothing_found_and_nothing_meant_is_zero_not_an_error() -> None:
    empty = score([[]], [[]], ["PER"]).overall
    assert (empty.precision, empty.recall, empty.f1) == (0.0, 0.0, 0.0)


@given(corpora)
def test_what_is_meant_scores_one_hundred(pairs: list[tuple[list[Span], list[Span]]]) -> None:
    meant = [b for _, b in pairs]
    overall = score(meant, meant, ["PER", "LOC"]).overall
    assert overall.f1 == (1.0 if any(meant) else 0.0)


@given(corpora)
def test_f1_is_between_precision_and_recall(pairs: list[tuple[list[Span], list[Span]]]) -> None:
    scores = score([a for a, _ in pairs], [b for _, b in pairs], ["PER", "LOC"])
    overall = scores.overall
    low, high = sorted([overall.precision, overall.recall])
    assert low - 1e-9 <= overall.f1 <= high + 1e-9
    assert overall.meant == sum(one.meant for one in scores.labels.values())
