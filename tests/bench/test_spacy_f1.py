import pytest

from tests.bench.spacy_f1 import Answered, as_ours, f1_by_corpus
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span


@pytest.mark.parametrize(
    ("text", "label", "surface"),
    [
        ("Ada Lund", "PERSON", "Ada Lund"),
        ("the World Bank", "ORG", "World Bank"),
        ("The Hague's", "GPE", "Hague"),
        ("Ada Lund\u2019s", "PERSON", "Ada Lund"),
        ("Theodore", "PERSON", "Theodore"),
    ],
)
def test_entities_follow_our_corpora(text: str, label: str, surface: str) -> None:
    (span,) = as_ours(text, [(0, len(text), label)])
    assert text[span.start : span.end] == surface


def test_labels_that_are_not_ours_are_left_out() -> None:
    assert not list(as_ours("German, the", [(0, 6, "NORP"), (8, 11, "DATE")]))


def test_each_corpus_gets_its_own_answers() -> None:
    corpora = [
        LoadedCorpus("one", (Document("1", "Ada", (Span(0, 3, "PER"),)), Document("2", "no"))),
        LoadedCorpus("two", (Document("3", "Lund", (Span(0, 4, "LOC"),)),)),
    ]
    answered = Answered("", ((Span(0, 3, "PER"),), (), (Span(0, 4, "PER"),)), 1.0)
    assert f1_by_corpus(corpora, answered, ["PER", "LOC"]) == {"average": 50.0, "one": 100.0, "two": 0.0}
