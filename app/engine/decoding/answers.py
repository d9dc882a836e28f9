"""Answers turn the logits of texts into predictions and evidence."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.engine.decoding.entities import MANY, Entities, Entity, Evidence, Prediction
from app.engine.decoding.spans import Decoder, ScoredSpan
from app.engine.text.alignment import EncodedText
from app.engine.text.words import Ints


class RunText(Protocol):
    """Gives what decoding needs of a text that a network has run.

    Attributes:
        encoded: the text's sub-tokens and decisions.
        windows: number of windows that the text was cut into.
        logits: logits of the text's decisions, shape (decisions, tags); None if it has no decisions.
    """

    @property
    def encoded(self) -> EncodedText: ...

    @property
    def windows(self) -> int: ...

    @property
    def logits(self) -> npt.NDArray[np.float32] | None: ...


class Answers:
    """Makes predictions from logits. Any thread may use it.

    Args:
        thresholds: the least score that an entity needs, by label; 0 for labels that are not listed.
    """

    def __init__(self, decoder: Decoder, thresholds: Mapping[str, float]):
        self._decoder = decoder
        self._thresholds = thresholds

    def logits(self, texts: Sequence[RunText]) -> list[npt.NDArray[np.float32]]:
        """Return each text's logits before temperature, shape (decisions, tags)."""
        nothing = np.zeros((0, len(self._decoder.tags)), np.float32)
        return [nothing if text.logits is None else text.logits for text in texts]

    def predictions(self, texts: Sequence[RunText]) -> list[Prediction]:
        """Return the entities of each text, in the texts' order."""
        found = self._decoder.decode_all(self.logits(texts))
        return [
            Prediction(
                kept_entities(spans, self._thresholds, text.encoded.starts, text.encoded.ends)
                if spans
                else (),
                text.windows,
            )
            for text, spans in zip(texts, found, strict=True)
        ]

    def evidence(self, texts: Sequence[RunText]) -> list[Evidence]:
        """Return the entities of each text, and the posteriors that they were read from."""
        return [
            Evidence(
                prediction, text.encoded.starts, text.encoded.ends, self._decoder.probabilities(logits)
            )
            for text, logits, prediction in zip(
                texts, self.logits(texts), self.predictions(texts), strict=True
            )
        ]


def kept_entities(
    spans: Sequence[ScoredSpan], thresholds: Mapping[str, float], starts: Ints, ends: Ints
) -> Sequence[Entity]:
    """Return the entities of one text that reach their label's threshold.

    Args:
        spans: the entities found, as decisions of the text.
        starts, ends: code points at which each decision starts and ends, shape (decisions,).
    """
    if len(spans) > MANY:
        return _kept_columns(spans, thresholds, starts, ends)
    return tuple(
        Entity(int(starts[first]), int(ends[last]), label, score)
        for first, last, label, score in spans
        if score >= thresholds.get(label, 0.0)
    )


def _kept_columns(
    spans: Sequence[ScoredSpan], thresholds: Mapping[str, float], starts: Ints, ends: Ints
) -> Entities:
    """Do what `kept_entities` does for many spans."""
    names = sorted({span.label for span in spans})
    numbers = {name: number for number, name in enumerate(names)}
    count = len(spans)
    labels = np.fromiter((numbers[span.label] for span in spans), np.int64, count)
    scores = np.fromiter((span.score for span in spans), np.float64, count)
    kept = scores >= np.array([thresholds.get(name, 0.0) for name in names])[labels]
    firsts = np.fromiter((span.first for span in spans), np.int64, count)[kept]
    lasts = np.fromiter((span.last for span in spans), np.int64, count)[kept]
    return Entities(names, labels[kept], starts[firsts], ends[lasts], scores[kept])
