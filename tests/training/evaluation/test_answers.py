from pathlib import Path

import pytest

from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from tests.tiny import SPANS, TEXT, write_tiny_version
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.evaluation.answers import Answers, Found, ask, ask_system


def test_a_version_is_asked_about_every_document_in_order(tmp_path: Path) -> None:
    count = 300  # more than are asked at once
    texts = [TEXT if number % 7 == 0 else f"word {number}" for number in range(count)]
    corpus = LoadedCorpus("c", tuple(Document(f"c:{n}", text) for n, text in enumerate(texts)))
    predictor = load_version(write_tiny_version(tmp_path), LoadOptions(threads=1)).model
    answers = ask(predictor, corpus)
    alone = [predictor.predict([text])[0].entities for text in texts]
    predictor.close()
    assert (answers.corpus, answers.documents) == ("c", corpus.documents)
    assert answers.spans == [[Span(*span) for span in SPANS] if n % 7 == 0 else [] for n in range(count)]
    assert [[one.score for one in found] for found in answers.found] == [
        [entity.score for entity in entities] for entities in alone
    ]


def test_what_was_found_knows_its_span() -> None:
    assert Found(1, 4, "PER", 0.5).span == Span(1, 4, "PER")


def test_each_document_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="c: 1 answers for 2 documents"):
        Answers("c", (Document("a", "x"), Document("b", "y")), ((),))


def test_another_system_is_asked_about_every_document_in_order() -> None:
    texts = [f"Ada{number} left" for number in range(300)]
    corpus = LoadedCorpus("c", tuple(Document(text, text) for text in texts))
    answers = ask_system(lambda some: [[(0, len(text) - 5, "PER")] for text in some], corpus)
    assert answers.found == tuple((Found(0, len(text) - 5, "PER", 1.0),) for text in texts)
    with pytest.raises(ValueError, match="c: 0 answers for 300 documents"):
        ask_system(lambda some: [], corpus)
