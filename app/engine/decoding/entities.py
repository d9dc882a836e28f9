"""Entities: what is found in a text."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.engine.text.words import Ints


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


@dataclass(frozen=True)
class Evidence:
    """What a model knows of one text: its answer, and what the answer was read from.

    Attributes:
        starts, ends: code points at which each decision's words start and end, shape (decisions,).
        posteriors: softmax of logits / temperature, shape (decisions, tags), columns as the manifest's
            tags.
    """

    prediction: Prediction
    starts: Ints
    ends: Ints
    posteriors: npt.NDArray[np.float64]
