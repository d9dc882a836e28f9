"""Entities: what is found in a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entity:
    """`text[start:end]` (code points) is a `label` with probability `score`.

    Attributes:
        agreement: of an ensemble, the share of the weight whose members found exactly this entity.
    """

    start: int
    end: int
    label: str
    score: float
    agreement: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The entities of one text, in order, and how many windows it took."""

    entities: tuple[Entity, ...]
    windows: int
