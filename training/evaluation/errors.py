"""Errors: what went wrong with each entity, with examples to read.

An entity found and an entity meant that overlap are one error, not two: the wrong ends, the wrong
label, or both. What is left is missed or spurious.
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
"""The row and column of a confusion matrix that stand for no entity."""

_AROUND = 40
"""Code points of text that an example shows on either side of an error."""


class Pair(NamedTuple):
    """An entity meant and what was found for it; one of the two may be missing, never both."""

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
        """The entity that was meant; of a spurious one what was found."""
        one = self.meant or self.found
        assert one is not None
        return one


def pair(meant: Iterable[Span], found: Iterable[Found]) -> list[Pair]:
    """Pair the entities of one text, each with one other at most, in order of their starts.

    Pairs that are exactly right are made first, then those with the same ends, then those that overlap
    most. Among equals, a pair with the same label goes first, then the one that starts first.
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
    """One error to read.

    Attributes:
        corpus: its corpus.
        document: its document's id.
        excerpt: the text around it.
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
        """What was meant, empty where nothing was."""
        return self._cut(self.meant)

    @property
    def found_text(self) -> str:
        """What was found, empty where nothing was."""
        return self._cut(self.found)

    def _cut(self, span: Span | Found | None) -> str:
        return self.excerpt[span.start - self.start : span.end - self.start] if span else ""


@dataclass(frozen=True)
class Recall:
    """How many of the entities meant were found exactly."""

    right: int
    meant: int

    @property
    def value(self) -> float:
        """In percent; 0 where none was meant."""
        return 100 * self.right / self.meant if self.meant else 0.0


@dataclass(frozen=True)
class ErrorReport:
    """The errors of one version in one corpus.

    Attributes:
        corpus: its name.
        counts: of each kind, how many of each label: the one that was meant, of spurious entities the
            one that was found. All kinds but `missed` add up to what was found, all but `spurious`
            to what was meant.
        examples: of each kind but `right`, a few, spread over the corpus.
        seen: recall of entities whose text stands in the training data under the same label.
        unseen: recall of all others.
    """

    corpus: str
    counts: dict[Kind, dict[str, int]]
    examples: dict[Kind, tuple[Example, ...]]
    seen: Recall
    unseen: Recall

    def total(self, kind: Kind) -> int:
        """How many of a kind there are, of all labels together."""
        return sum(self.counts[kind].values())


def seen_mentions(train: Sequence[LoadedCorpus]) -> frozenset[tuple[str, str]]:
    """The lower-cased text and label of each entity of the training data."""
    return frozenset(
        (document.text[start:end].lower(), label)
        for corpus in train
        for document in corpus.documents
        for start, end, label in document.spans
    )


def analyse(
    answers: Answers, labels: Sequence[str], seen: Collection[tuple[str, str]], examples: int = 5
) -> ErrorReport:
    """Sort every entity meant or found into its kind of error.

    Args:
        labels: the entity types, the order of the counts; others that occur come after them.
        seen: (lower-cased text, label) of entities that training showed, see `seen_mentions`.
        examples: how many of each kind to keep at most.
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
    """How often each label was taken for each other.

    Attributes:
        names: the labels, then `NONE`, of the rows and of the columns.
        counts: shape (names, names), a row for each label meant, a column for each label found. The
            column `NONE` is what was missed, the row `NONE` what is spurious.
    """

    names: tuple[str, ...]
    counts: Ints


def confusion(answers: Answers, labels: Sequence[str]) -> Confusion:
    """The confusion matrix over entities that have the same ends or overlap (see `pair`).

    Entities of other labels than these do not count, so matrices of several corpora can be added.
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
    """At most `most` of them, evenly spaced: neighbours are often the same mistake."""
    if len(errors) <= most:
        return list(errors)
    return [errors[at * len(errors) // most] for at in range(most)]


def _example(answers: Answers, number: int, one: Pair) -> Example:
    document = answers.documents[number]
    spans = [span for span in one if span is not None]
    start = max(0, min(span.start for span in spans) - _AROUND)
    end = max(span.end for span in spans) + _AROUND
    return Example(answers.corpus, document.id, document.text[start:end], start, *one)
