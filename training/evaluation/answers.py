"""Answers are the entities that one version finds in one corpus; a version runs once for all measures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app.engine.decoding.entities import Prediction
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span

_SLICE = 256
"""Texts in one call of a model, so that a corpus of any size fits the queue."""


class Found(NamedTuple):
    """Says that `text[start:end]` (code points) is a `label` with probability `score`."""

    start: int
    end: int
    label: str
    score: float

    @property
    def span(self) -> Span:
        return Span(self.start, self.end, self.label)


@dataclass(frozen=True)
class Answers:
    """Holds the entities that one version found in one corpus.

    Attributes:
        corpus: the name of the corpus.
        documents: its documents, with the annotated entities.
        found: the entities found in each document, in the documents' order.
    """

    corpus: str
    documents: tuple[Document, ...]
    found: tuple[tuple[Found, ...], ...]

    def __post_init__(self) -> None:
        if len(self.documents) != len(self.found):
            raise ValueError(
                f"{self.corpus}: {len(self.found)} answers for {len(self.documents)} documents; "
                "give one for each document, empty where nothing was found"
            )

    @property
    def spans(self) -> list[list[Span]]:
        """Return the spans found in each document, without their scores."""
        return [[one.span for one in found] for found in self.found]


class Predicts(Protocol):
    """Predicts entities of texts, as a loaded model does."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]: ...


Finds = Callable[[Sequence[str]], Sequence[Iterable[tuple[int, int, str]]]]
"""A function from texts to the entities of each: (start, end, label), in code points."""


def ask(model: Predicts, corpus: LoadedCorpus) -> Answers:
    """Run a version over a corpus; errors of the model (`InferenceFailed`, `NotReady`) pass through."""
    found: list[tuple[Found, ...]] = []
    for at in range(0, len(corpus.documents), _SLICE):
        texts = [document.text for document in corpus.documents[at : at + _SLICE]]
        found.extend(
            tuple(Found(e.start, e.end, e.label, e.score) for e in prediction.entities)
            for prediction in model.predict(texts)
        )
    return Answers(corpus.name, corpus.documents, tuple(found))


def ask_system(finds: Finds, corpus: LoadedCorpus) -> Answers:
    """Run any other system over a corpus; every score is 1, as there are no probabilities."""
    found: list[tuple[Found, ...]] = []
    for at in range(0, len(corpus.documents), _SLICE):
        texts = [document.text for document in corpus.documents[at : at + _SLICE]]
        found.extend(tuple(Found(*span, 1.0) for span in spans) for spans in finds(texts))
    return Answers(corpus.name, corpus.documents, tuple(found))
