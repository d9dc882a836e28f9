import pytest

from training.data.documents import Document, Span
from training.evaluation.tokens import token_table

TEXT = "Ada Lund left U.S. waters"


def test_each_word_counts_alone_and_o_too() -> None:
    document = Document("d", TEXT, (Span(0, 8, "PER"), Span(14, 18, "LOC")))
    table = token_table([document], [[Span(0, 8, "PER"), Span(14, 15, "LOC")]], ["PER", "LOC"])
    assert list(table) == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "micro"]
    assert table["I-PER"] == {"precision": 100.0, "recall": 100.0, "f1": 100.0, "support": 1}
    assert table["I-LOC"]["support"] == 3  # the words of "U.S." are U . S .
    assert table["I-LOC"]["f1"] == 0.0
    assert table["O"] == {"precision": 40.0, "recall": 100.0, "f1": 57.14, "support": 2}


def test_the_micro_average_is_accuracy() -> None:
    document = Document("d", TEXT, (Span(0, 8, "PER"),))
    table = token_table([document], [[Span(0, 3, "PER")]], ["PER"])
    words, right = 8, 7
    assert table["micro"]["support"] == words
    for value in ("precision", "recall", "f1"):
        assert table["micro"][value] == pytest.approx(100 * right / words, abs=0.01)


def test_a_text_without_words_counts_nothing() -> None:
    assert token_table([Document("d", " \n ")], [[]], ["PER"])["micro"]["support"] == 0
