"""Corpora: a recipe's files as clean documents, without duplicates and without leaks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.cleaning import CLEANING
from training.data.documents import Document, Span
from training.data.readers import read
from training.recipe import Corpus, Recipe


@dataclass(frozen=True)
class LoadedCorpus:
    """A corpus's documents under the recipe's labels, and what was dropped from it."""

    name: str
    documents: tuple[Document, ...]
    repeat: int = 1
    duplicates: int = 0
    leaks: int = 0


def load_corpus(corpus: Corpus, root: Path, labels: Sequence[str]) -> LoadedCorpus:
    """Read, map labels and clean; nothing is dropped yet.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is not in its reader's format.
    """
    documents = []
    for path in corpus.paths:
        for document in read(corpus.reader, root / path, corpus.options):
            spans = tuple(_mapped(document.spans, corpus.labels, labels))
            document = replace(document, id=f"{corpus.name}:{document.id}", spans=spans)
            for step in corpus.clean:
                document = CLEANING[step](document)
            documents.append(document)
    return LoadedCorpus(corpus.name, tuple(documents), corpus.repeat)


def _mapped(spans: Iterable[Span], names: dict[str, str], labels: Sequence[str]) -> Iterable[Span]:
    for span in spans:
        label = names.get(span.label, span.label)
        if label in labels:
            yield span._replace(label=label)


def load_train(recipe: Recipe) -> list[LoadedCorpus]:
    """The training corpora, each text once, without any that stands in a dev or test file."""
    root = Path(recipe.data_root)
    held_out = {
        document.key
        for corpus in (*recipe.dev, *recipe.test)
        for document in load_corpus(corpus, root, recipe.labels).documents
    }
    seen: set[str] = set()
    loaded = []
    for corpus in recipe.train:
        raw = load_corpus(corpus, root, recipe.labels)
        fresh = [document for document in raw.documents if document.key not in held_out]
        kept = []
        for document in fresh:
            if document.key not in seen:
                seen.add(document.key)
                kept.append(document)
        loaded.append(
            replace(
                raw,
                documents=tuple(kept),
                leaks=len(raw.documents) - len(fresh),
                duplicates=len(fresh) - len(kept),
            )
        )
    return loaded


def load_held_out(corpora: Sequence[Corpus], recipe: Recipe) -> list[LoadedCorpus]:
    """Dev or test corpora, whole: nothing is ever dropped from them."""
    root = Path(recipe.data_root)
    return [load_corpus(corpus, root, recipe.labels) for corpus in corpora]
