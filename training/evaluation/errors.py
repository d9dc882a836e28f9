"""This module classifies errors and picks examples of them.

A found and an annotated ("meant") entity that overlap are one error, not two: wrong ends, wrong label,
or both. An entity without a partner is missed (only meant) or spurious (only found).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from app.engine.text.words import Ints
from training.data.corpora import LoadedCorpus
from training.data.documents import Span
from training.evaluation.answers import Answers, Found

Kind = Literal["right", "boundary", "type", "boundary and type", "missed", "spurious"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NONE = "none"
"""The name of the row and the column of a confusion matrix for no entity."""

_AROUND = 40
"""Code points that an example shows on either side of an error."""


class Pair(NamedTuple):
    """Pairs a meant entity with a found one; one of the two may be None, never both."""

    meant: Span | None
    found: Found | None

    @property
    def kind(self) -> Kind:
        if self.found is None:
            return "missed"
        if self.meant is None:
            return "spurious"
        same_ends = self.meant[:2] == self.found[:2]
        if self.meant.label == self.found.label:
            return "right" if same_ends else "boundary"
        return "type" if same_ends else "boundary and type"

    @property
    def first(self) -> Span | Found:
        """Return the meant entity, or the found one if it is spurious."""
        one = self.meant or self.found
        assert one is not None
        return one


def pair(meant: Iterable[Span], found: Iterable[Found]) -> list[Pair]:
    """Pair the entities of one text, each with at most one other, in the order of their starts.

    Exactly right pairs are made first, then pairs with the same ends, then pairs with the largest overlap.
    Among equals, a pair with the same label goes first, then the one that starts first.
    """
    left, right = sorted(set(meant)), sorted({one.span: one for one in found}.values())

    def rank(a: Span, b: Found) -> tuple[bool, bool, int, bool]:
        other_ends, other_label = a[:2] != b[:2], a.label != b.label
        return other_ends or other_label, other_ends, -_overlap(a, b), other_label

    overlapping = [(a, b) for a in left for b in right if _overlap(a, b) > 0]
    to_found: dict[Span, Found] = {}
    taken: set[Found] = set()
    for a, b in sorted(overlapping, key=lambda both: (rank(*both), both)):
        if a not in to_found and b not in taken:
            to_found[a] = b
            taken.add(b)
    pairs = [Pair(a, to_found.get(a)) for a in left] + [Pair(None, b) for b in right if b not in taken]
    return sorted(pairs, key=lambda one: one.first[:2])


def _overlap(a: Span, b: Found) -> int:
    return min(a.end, b.end) - max(a.start, b.start)


@dataclass(frozen=True)
class Example:
    """Is one error, as an example.

    Attributes:
        corpus: the name of its corpus.
        document: the id of its document.
        excerpt: the text around the error.
        start: where the excerpt starts in the text, in code points.
        meant, found: the entities, in code points of the whole text.
    """

    corpus: str
    document: str
    excerpt: str
    start: int
    meant: Span | None
    found: Found | None

    @property
    def meant_text(self) -> str:
        """Return the text of the meant entity, or an empty string."""
        return self._cut(self.meant)

    @property
    def found_text(self) -> str:
        """Return the text of the found entity, or an empty string."""
        return self._cut(self.found)

    def _cut(self, span: Span | Found | None) -> str:
        return self.excerpt[span.start - self.start : span.end - self.start] if span else ""


@dataclass(frozen=True)
class Recall:
    """Counts the meant entities, and those that were found exactly."""

    right: int
    meant: int

    @property
    def value(self) -> float:
        """Return the recall in percent; 0 if no entity was meant."""
        return 100 * self.right / self.meant if self.meant else 0.0


@dataclass(frozen=True)
class ErrorReport:
    """Holds the errors of one version in one corpus.

    Attributes:
        corpus: the name of the corpus.
        counts: number of pairs by kind and by label: the meant one, or the found one of a spurious
            entity. All kinds but `missed` add up to the found entities, all but `spurious` to the meant.
        examples: a few examples of each kind but `right`, spread over the corpus.
        seen: recall of entities whose text occurs in the training data under the same label.
        unseen: recall of all other entities.
    """

    corpus: str
    counts: dict[Kind, dict[str, int]]
    examples: dict[Kind, tuple[Example, ...]]
    seen: Recall
    unseen: Recall

    def total(self, kind: Kind) -> int:
        """Return the number of pairs of a kind, of all labels together."""
        return sum(self.counts[kind].values())


def seen_mentions(train: Sequence[LoadedCorpus]) -> frozenset[tuple[str, str]]:
    """Return the lower-cased text and the label of each entity of the training data."""
    return frozenset(
        (document.text[start:end].lower(), label)
        for corpus in train
        for document in corpus.documents
        for start, end, label in document.spans
    )


def analyse(
    answers: Answers, labels: Sequence[str], seen: Collection[tuple[str, str]], examples: int = 5
) -> ErrorReport:
    """Classify every meant and found entity of a corpus.

    Args:
        labels: the entity types in the order of the counts; other labels that occur follow them.
        seen: (lower-cased text, label) of the training data's entities, see `seen_mentions`.
        examples: the largest number of examples of each kind.
    """
    known = set(seen)
    counts = {kind: Counter[str]() for kind in KINDS}
    of_kind: dict[Kind, list[tuple[int, Pair]]] = {kind: [] for kind in KINDS if kind != "right"}
    recalls = {True: Counter[bool](), False: Counter[bool]()}
    for number, (document, found) in enumerate(zip(answers.documents, answers.found, strict=True)):
        for one in pair(document.spans, found):
            counts[one.kind][one.first.label] += 1
            if one.kind != "right":
                of_kind[one.kind].append((number, one))
            if one.meant is not None:
                surface = document.text[one.meant.start : one.meant.end].lower()
                recalls[(surface, one.meant.label) in known][one.kind == "right"] += 1
    others = {label for of_labels in counts.values() for label in of_labels} - set(labels)
    names = [*labels, *sorted(others)]
    return ErrorReport(
        answers.corpus,
        {kind: {label: of_labels[label] for label in names} for kind, of_labels in counts.items()},
        {
            kind: tuple(_example(answers, *one) for one in _spread(errors, examples))
            for kind, errors in of_kind.items()
        },
        Recall(recalls[True][True], recalls[True].total()),
        Recall(recalls[False][True], recalls[False].total()),
    )


@dataclass(frozen=True)
class Confusion:
    """Counts how often each label was confused with each other.

    Attributes:
        names: the names of the rows and of the columns: the labels, then `NONE`.
        counts: shape (names, names), a row for each meant label, a column for each found label. The
            column `NONE` counts missed entities, the row `NONE` spurious ones.
    """

    names: tuple[str, ...]
    counts: Ints


def confusion(answers: Answers, labels: Sequence[str]) -> Confusion:
    """Count the labels of paired entities (see `pair`).

    Entities of other labels are left out, so that matrices of several corpora can be added.
    """
    cells = Counter(
        (one.meant.label if one.meant else NONE, one.found.label if one.found else NONE)
        for document, found in zip(answers.documents, answers.found, strict=True)
        for one in pair(
            (span for span in document.spans if span.label in labels),
            (span for span in found if span.label in labels),
        )
    )
    names = (*labels, NONE)
    counts = np.array([[cells[meant, found] for found in names] for meant in names], np.int64)
    return Confusion(names, counts)


def _spread(errors: Sequence[tuple[int, Pair]], most: int) -> list[tuple[int, Pair]]:
    """Choose at most `most` errors, evenly spaced, because neighbours are often the same mistake."""
    if len(errors) <= most:
        return list(errors)
    return [errors[at * len(errors) // most] for at in range(most)]


def _example(answers: Answers, number: int, one: Pair) -> Example:
    document = answers.documents[number]
    spans = [span for span in one if span is not None]
    start = max(0, min(span.start for span in spans) - _AROUND)
    end = max(span.end for span in spans) + _AROUND
    return Example(answers.corpus, document.id, document.text[start:end], start, *one)
