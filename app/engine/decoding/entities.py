"""Entities are what a model finds in a text."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.engine.text.words import Ints


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Prediction:
    """Holds the entities of one text, in order, and the number of windows that the text was cut into."""

    entities: tuple[Entity, ...]
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
