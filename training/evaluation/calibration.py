"""Calibration makes scores probabilities: of entities with a score of 0.8, eight in ten should be right.

Guo et al. 2017 fit the temperature to single decisions; here it is fitted to whole entities, because users
see the score of an entity. Most words lie outside entities, where the network is rightly sure, so a fit to
words gives a temperature too low for entities; docs/journal.md has the figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from app.engine.decoding.spans import Decoder
from app.engine.model import Network
from app.engine.text.tokenizer import EncodedText
from training.data.corpora import LoadedCorpus
from training.evaluation.answers import Answers, Found

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COLDEST, HOTTEST = 0.1, 10.0
"""The lowest and the highest temperature that a fit considers."""

_CUTS = np.arange(100) / 100
"""The thresholds that a fit considers."""
_SLICE = 256
"""Texts in one call of the model, so that a corpus of any size fits the queue."""
_SURE = 1e-9
"""The least distance of a score from 0 and 1, which keeps logarithms finite."""


@dataclass(frozen=True)
class Reliability:
    """Says how well scores predict accuracy (Guo et al. 2017, "On calibration of modern networks").

    Attributes:
        edges: the edges of the bins, one more than bins. A score on an edge is in the bin above it.
        confidence: mean score in each bin, 0 in an empty one.
        accuracy: share of each bin's entities that are right, 0 in an empty one.
        counts: number of entities in each bin.
        ece: expected calibration error, in percent: the mean distance between confidence and
            accuracy, weighted by counts (Naeini, Cooper & Hauskrecht 2015); 0 without entities.
    """

    edges: tuple[float, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]
    ece: float


def reliability(answers: Sequence[Answers], bins: int = 15) -> Reliability:
    """Compute the reliability of the scores of all entities found, in bins of equal width.

    An entity is right when its span and its label are both exactly right.
    """
    scores, right = _judged(answers)
    at = np.minimum((scores * bins).astype(np.int64), bins - 1)
    counts = np.bincount(at, minlength=bins)
    confidence, accuracy = (
        np.bincount(at, weights=values, minlength=bins) / np.maximum(counts, 1)
        for values in (scores, right.astype(np.float64))
    )
    ece = 100 * float(np.abs(confidence - accuracy) @ counts) / max(len(scores), 1)
    edges = np.linspace(0, 1, bins + 1)
    return Reliability(
        tuple(edges.tolist()),
        tuple(confidence.tolist()),
        tuple(accuracy.tolist()),
        tuple(counts.tolist()),
        ece,
    )


def fit_temperature(answered: Callable[[float], Sequence[Answers]]) -> float:
    """Fit the temperature under which scores best predict which of the found entities are right.

    It minimises the negative log-likelihood of each found entity being right or wrong. As in Platt 1999
    ("Probabilistic outputs for support vector machines") each of n right entities counts as right with a
    probability of (n + 1) / (n + 2), and the wrong ones likewise, so that few entities, or only right
    ones, do not give extreme scores.

    Args:
        answered: returns the answers at a temperature, which changes scores and no spans.

    Returns:
        A temperature from `COLDEST` to `HOTTEST`; 1 where no entity is found.
    """
    _, right = _judged(answered(1.0))
    if not len(right):
        return 1.0
    hits = int(right.sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))

    def loss(temperature: float) -> float:
        scores, _ = _judged(answered(temperature))
        p = np.clip(scores, _SURE, 1 - _SURE)
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())

    return _least(loss)


def _least(loss: Callable[[float], float]) -> float:
    """Return the temperature of least loss, searched on a logarithmic scale."""
    found = minimize_scalar(
        lambda log: loss(float(np.exp(log))),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def fit_thresholds(
    answers: Sequence[Answers], labels: Sequence[str], least_gain: float = 0.1
) -> dict[str, float]:
    """Fit, for each label, the least score of an entity that should be kept.

    That is the lowest threshold, to two decimals, with the highest F1 of the label, averaged over corpora.

    Args:
        answers: answers with all entities, without thresholds.
        least_gain: points of F1 that a threshold must gain; a label that gains less gets 0.
    """
    thresholds = {}
    for label in labels:
        curves = np.array([_f1_by_cut(one, label) for one in answers]).reshape(-1, len(_CUTS))
        mean = curves.sum(0) / max(len(curves), 1)
        best = int(
            np.argmax(mean >= mean.max() - 1e-9)
        )  # the lowest of those that differ by rounding alone
        gained = mean[best] - mean[0] >= least_gain - 1e-9
        thresholds[label] = float(_CUTS[best]) if gained else 0.0
    return thresholds


def _f1_by_cut(answers: Answers, label: str) -> Floats:
    """Return the F1 of a label in percent under each threshold in `_CUTS`, shape (cuts,)."""
    scores, right = _judged([answers], label)
    meant = sum(len({s for s in d.spans if s.label == label}) for d in answers.documents)
    kept = scores >= _CUTS[:, None]  # has the shape (cuts, entities)
    below = kept.sum(1) + meant
    return np.asarray(200.0 * (kept & right).sum(1) / np.maximum(below, 1))


def _judged(answers: Sequence[Answers], label: str | None = None) -> tuple[Floats, Bools]:
    """Return the score of each found entity of a label (None: of any), and whether it is right."""
    judged = [
        (one.score, one.span in document.spans)
        for some in answers
        for document, found in zip(some.documents, some.found, strict=True)
        for one in found
        if label is None or one.label == label
    ]
    return np.array([score for score, _ in judged], np.float64), np.array([r for _, r in judged], np.bool_)


@dataclass(frozen=True)
class Calibration:
    """Holds the calibration for a manifest, and its effect on the corpora of the fit.

    Attributes:
        temperature: see `Decoder`.
        thresholds: least score of each label, see `fit_thresholds`.
        before: reliability at temperature 1.
        after: reliability of the same entities at `temperature`, without thresholds.
    """

    temperature: float
    thresholds: dict[str, float]
    before: Reliability
    after: Reliability


def calibrate(
    model: Network,
    corpora: Sequence[LoadedCorpus],
    least_gain: float = 0.1,
) -> Calibration:
    """Fit a temperature, then thresholds at it; the manifest's present values have no effect.

    Args:
        corpora: dev corpora, because test corpora must stay unseen.
        least_gain: see `fit_thresholds`.
    """
    manifest = model.manifest
    outputs = [_output(model, corpus) for corpus in corpora]

    def answered(temperature: float) -> list[Answers]:
        decoder = Decoder(manifest.tags, manifest.scheme, temperature)
        return [output.decoded(decoder) for output in outputs]

    temperature = round(fit_temperature(answered), 3)
    after = answered(temperature)
    return Calibration(
        temperature,
        fit_thresholds(after, manifest.labels, least_gain),
        reliability(answered(1.0)),
        reliability(after),
    )


@dataclass(frozen=True)
class _Output:
    """Holds a network's logits for a corpus, so that the network runs once for all temperatures."""

    corpus: LoadedCorpus
    encoded: tuple[EncodedText, ...]
    logits: tuple[npt.NDArray[np.float32], ...]

    def decoded(self, decoder: Decoder) -> Answers:
        found = tuple(
            tuple(
                Found(int(text.starts[first]), int(text.ends[last]), label, score)
                for first, last, label, score in decoder.decode(logits)
            )
            for text, logits in zip(self.encoded, self.logits, strict=True)
        )
        return Answers(self.corpus.name, self.corpus.documents, found)


def _output(model: Network, corpus: LoadedCorpus) -> _Output:
    texts = [document.text for document in corpus.documents]
    slices = [texts[at : at + _SLICE] for at in range(0, len(texts), _SLICE)]
    encoded = tuple(one for some in slices for one in model.tokenizer.encode(some))
    logits = tuple(one for some in slices for one in model.logits(some))
    return _Output(corpus, encoded, logits)
