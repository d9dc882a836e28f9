"""Answers with given counts: documents in which some entities are right, some wrong and some missed."""

from collections.abc import Sequence

from training.data.documents import Document, Span
from training.evaluation.answers import Answers, Found

LABELS = ("PER", "LOC")


def counted(counts: Sequence[tuple[int, int, int]], corpus: str = "c", label: str = "PER") -> Answers:
    """Answers with, document by document, so many entities right, found and meant."""
    documents, answers = [], []
    for number, (right, found, meant) in enumerate(counts):
        spans = tuple(Span(at, at + 1, label) for at in range(meant))
        documents.append(Document(f"{corpus}:{number}", "x" * meant + "y" * found, spans))
        places = [*range(right), *range(meant, meant + found - right)]
        answers.append(tuple(Found(at, at + 1, label, 0.5) for at in places))
    return Answers(corpus, tuple(documents), tuple(answers))
