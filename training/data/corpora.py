"""A recipe's corpora are loaded as clean documents, without duplicates and without leaks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.cleaning import CLEANING
from training.data.documents import Document, Span
from training.data.readers import read
from training.recipe import Corpus, Recipe


@dataclass(frozen=True)
class Dropped:
    """Is a training text that is left out because another document has the same text.

    Attributes:
        document: the document that is left out.
        original: the document that stays.
        corpus: the original's corpus.
        leak: whether the original's corpus is a dev or test corpus.
    """

    document: Document
    original: Document
    corpus: str
    leak: bool


@dataclass(frozen=True)
class LoadedCorpus:
    """Holds a corpus's documents under the recipe's labels, and those that were dropped."""

    name: str
    documents: tuple[Document, ...]
    repeat: int = 1
    dropped: tuple[Dropped, ...] = ()

    @property
    def leaks(self) -> int:
        """Return the number of texts dropped because they occur in a dev or test file."""
        return sum(dropped.leak for dropped in self.dropped)

    @property
    def duplicates(self) -> int:
        """Return the number of texts dropped because they occur earlier in the training files."""
        return len(self.dropped) - self.leaks


def read_corpus(corpus: Corpus, root: Path) -> list[Document]:
    """Read a corpus with the labels of its files.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is not in its reader's format.
    """
    return [
        replace(document, id=f"{corpus.name}:{document.id}")
        for path in corpus.paths
        for document in read(corpus.reader, root / path, corpus.options)
    ]


def under_labels(corpus: Corpus, documents: Iterable[Document], labels: Sequence[str]) -> LoadedCorpus:
    """Map the documents' labels, then clean the documents; no document is dropped."""
    cleaned = []
    for document in documents:
        document = replace(document, spans=tuple(_mapped(document.spans, corpus.labels, labels)))
        for step in corpus.clean:
            document = CLEANING[step](document)
        cleaned.append(document)
    return LoadedCorpus(corpus.name, tuple(cleaned), corpus.repeat)


def load_corpus(corpus: Corpus, root: Path, labels: Sequence[str]) -> LoadedCorpus:
    """Read a corpus, map its labels and clean it; raises as `read_corpus`."""
    return under_labels(corpus, read_corpus(corpus, root), labels)


def _mapped(spans: Iterable[Span], names: dict[str, str], labels: Sequence[str]) -> Iterable[Span]:
    for span in spans:
        label = names.get(span.label, span.label)
        if label in labels:
            yield span._replace(label=label)


def without_repeats(train: Sequence[LoadedCorpus], held_out: Sequence[LoadedCorpus]) -> list[LoadedCorpus]:
    """Return the training corpora, each text once, without texts of the held-out corpora."""
    away = {document.key: (document, corpus.name) for corpus in held_out for document in corpus.documents}
    seen: dict[str, tuple[Document, str]] = {}
    result = []
    for corpus in train:
        kept, dropped = [], []
        for document in corpus.documents:
            key = document.key
            if key in away:
                dropped.append(Dropped(document, *away[key], leak=True))
            elif key in seen:
                dropped.append(Dropped(document, *seen[key], leak=False))
            else:
                seen[key] = document, corpus.name
                kept.append(document)
        result.append(replace(corpus, documents=tuple(kept), dropped=tuple(dropped)))
    return result


def load_train(recipe: Recipe) -> list[LoadedCorpus]:
    """Load the training corpora, each text once, without texts of the dev and test corpora."""
    held_out = load_held_out((*recipe.dev, *recipe.test), recipe)
    root = Path(recipe.data_root)
    train = [load_corpus(corpus, root, recipe.labels) for corpus in recipe.train]
    return without_repeats(train, held_out)


def load_held_out(corpora: Sequence[Corpus], recipe: Recipe) -> list[LoadedCorpus]:
    """Load dev or test corpora; no text is dropped from them."""
    root = Path(recipe.data_root)
    return [load_corpus(corpus, root, recipe.labels) for corpus in corpora]
