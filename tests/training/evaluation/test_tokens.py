import pytest

from training.data.documents import Document, Span
from training.evaluation.spans import Percentages
from training.evaluation.tokens import token_table

TEXT = "Ada Lund left U.S. waters"


def test_each_word_counts_alone_and_o_too() -> None:
    document = Document("d", TEXT, (Span(0, 8, "PER"), Span(14, 18, "LOC")))
    table = token_table([document], [[Span(0, 8, "PER"), Span(14, 15, "LOC")]], ["PER", "LOC"])
    assert list(table) == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "micro"]
    assert table["I-PER"] == Percentages(100.0, 100.0, 100.0, 1)
    assert table["I-LOC"].support == 3  # the words of "U.S." are U . S .
    assert table["I-LOC"].f1 == 0.0
    assert table["O"] == Percentages(40.0, 100.0, 57.14, 2)


def test_the_micro_average_is_accuracy() -> None:
    document = Document("d", TEXT, (Span(0, 8, "PER"),))
    table = token_table([document], [[Span(0, 3, "PER")]], ["PER"])
    words, right = 8, 7
    micro = table["micro"]
    assert micro.support == words
    for value in (micro.precision, micro.recall, micro.f1):
        assert value == pytest.approx(100 * right / words, abs=0.01)


def test_a_text_without_words_counts_nothing() -> None:
    assert token_table([Document("d", " \n ")], [[]], ["PER"])["micro"].support == 0
