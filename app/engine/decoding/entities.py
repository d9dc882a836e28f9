"""Entities are what a model finds in a text."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from app.engine.text.words import Ints

MANY = 1_000
"""Entities of one text that are handled at a time; more are held as columns."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Says that `text[start:end]` (code points) is a `label` with probability `score`.

    Attributes:
        agreement: share (0 to 1) of an ensemble's weight that belongs to the members which found exactly
            this entity; None if the model is a single network.
    """

    start: int
    end: int
    label: str
    score: float
    agreement: float | None = None


class Entities(Sequence[Entity]):
    """Holds the many entities of a long text as columns, and makes each `Entity` when it is asked for.

    Hundreds of thousands of objects would take ten times the memory, and the interpreter would stand still
    whenever it looks for garbage among them or frees them.

    Args:
        names: the labels.
        labels: the number of each entity's label in `names`, shape (entities,).
        starts, ends, scores: the fields of each entity, shape (entities,).
        agreements: the same; None if the entities have no agreement.
    """

    __slots__ = ("_agreements", "_ends", "_labels", "_names", "_scores", "_starts")

    def __init__(
        self,
        names: Sequence[str],
        labels: Ints,
        starts: Ints,
        ends: Ints,
        scores: npt.NDArray[np.float64],
        agreements: npt.NDArray[np.float64] | None = None,
    ):
        self._names = names
        self._labels = labels
        self._starts = starts
        self._ends = ends
        self._scores = scores
        self._agreements = agreements

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Entity: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Entity, ...]: ...

    def __getitem__(self, at: int | slice) -> Entity | tuple[Entity, ...]:
        if isinstance(at, int):
            at = range(len(self))[at]
            return self[at : at + 1][0]
        names = self._names
        labels = [names[label] for label in self._labels[at].tolist()]
        columns = self._starts[at].tolist(), self._ends[at].tolist(), labels, self._scores[at].tolist()
        if self._agreements is None:
            return tuple(map(Entity, *columns))
        return tuple(map(Entity, *columns, self._agreements[at].tolist()))

    def __iter__(self) -> Iterator[Entity]:
        for first in range(0, len(self), MANY):
            yield from self[first : first + MANY]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def wanted(self, labels: Collection[str] | None, least: float) -> "Entities":
        """Return the entities of some labels (None stands for all) whose score reaches the least."""
        chosen = self._scores >= least
        if labels is not None:
            chosen &= np.array([name in labels for name in self._names], bool)[self._labels]
        return Entities(
            self._names,
            self._labels[chosen],
            self._starts[chosen],
            self._ends[chosen],
            self._scores[chosen],
            None if self._agreements is None else self._agreements[chosen],
        )

    def scores(self) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Yield each label that occurs, with the scores of its entities."""
        for number in np.unique(self._labels).tolist():
            yield self._names[number], self._scores[self._labels == number]


def compact(entities: Sequence[Entity]) -> Sequence[Entity]:
    """Return the entities of one text in the form that takes least: a tuple of few, or columns of many."""
    if len(entities) <= MANY:
        return tuple(entities)
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(entity.label, len(numbers)) for entity in entities]
    agreements = None
    if entities[0].agreement is not None:
        agreements = _floats(entity.agreement or 0.0 for entity in entities)
    return Entities(
        tuple(numbers),
        np.array(labels, np.int64),
        np.fromiter((entity.start for entity in entities), np.int64),
        np.fromiter((entity.end for entity in entities), np.int64),
        _floats(entity.score for entity in entities),
        agreements,
    )


def _floats(values: Iterable[float]) -> npt.NDArray[np.float64]:
    return np.fromiter(values, np.float64)


@dataclass(frozen=True)
class Prediction:
    """Holds the entities of one text, in order, and the number of windows that the text was cut into."""

    entities: Sequence[Entity]
    windows: int


@dataclass(frozen=True)
class Evidence:
    """Holds the prediction for one text, and the probabilities that it was read from.

    Attributes:
        starts, ends: code points at which each decision starts and ends, shape (decisions,).
        posteriors: softmax of logits / temperature, shape (decisions, tags); the columns are in the order
            of the manifest's tags.
    """

    prediction: Prediction
    starts: Ints
    ends: Ints
    posteriors: npt.NDArray[np.float64]
