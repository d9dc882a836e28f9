"""Spans: from the logits of a text's decisions to entities, each with its exact probability.

Tag sequences form a chain whose illegal transitions have probability zero, and whose legal transitions are
all alike, so `P(tags) ∝ Π_t softmax(logits_t / temperature)[tags_t]` over the legal sequences. The best
sequence is found as `viterbi` says, and an entity is scored as `posteriors` says.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.decoding.grammar import grammar
from app.engine.decoding.posteriors import Chain, Mention
from app.engine.decoding.viterbi import make_legal
from app.engine.text.words import Ints
from app.labels import Scheme, split_tag

Floats = npt.NDArray[np.float64]

_CAREFUL = 8
"""Steps after which sums of weights are scaled where tags may be ever so improbable."""

_FLOOR = 1e-30
"""A probability counts as this at least, so that the product of `_CAREFUL` of them is above the smallest
float64."""


class ScoredSpan(NamedTuple):
    """Decisions `first` to `last` (inclusive) form an entity `label` with probability `score`."""

    first: int
    last: int
    label: str
    score: float


class Decoder:
    """Finds the entities of texts from their logits. It keeps nothing of a text.

    Args:
        tags: the tag of each logit column; one of them is `O`.
        scheme: how tags spell entities.
        temperature: logits are divided by it.
    """

    def __init__(self, tags: Sequence[str], scheme: Scheme, temperature: float = 1.0):
        self.tags = tuple(tags)
        self.grammar = grammar(tags, scheme)
        self.temperature = temperature
        self._outside = self.tags.index("O")
        self._chain = Chain(self.tags, scheme)
        labels = [split_tag(tag)[1] for tag in tags]
        self._labels = np.array([self._chain.labels.index(label) if label else -1 for label in labels])

    def decode(self, logits: npt.NDArray[np.floating]) -> list[ScoredSpan]:
        """The entities of one text, in order.

        Args:
            logits: shape (decisions, tags).
        """
        return self.decode_all([logits])[0]

    def decode_all(self, logits: Sequence[npt.NDArray[np.floating]]) -> list[list[ScoredSpan]]:
        """The entities of each text, to the bit what `decode` finds in it.

        Args:
            logits: of each text, shape (decisions, tags).
        """
        if not logits:
            return []
        best = (np.concatenate(logits) if len(logits) > 1 else logits[0]).argmax(1)
        if (best == self._outside).all():  # always legal
            return [[] for _ in logits]
        lengths = np.array([len(text) for text in logits])
        # An `O` stands before, between and behind the texts: the two ends of a text are as `O`.
        bases = (lengths + 1).cumsum() - lengths
        tags = np.full(len(best) + len(logits) + 1, self._outside)
        tags[np.arange(len(best)) + np.arange(1, len(logits) + 1).repeat(lengths)] = best
        careful = self._make_legal(tags, bases, logits)
        mentions = self._mentions(tags, bases)
        scores = self._steady_scores(
            logits, {text: mentions[text] for text in mentions if text not in careful}
        )
        for text in careful & mentions.keys():
            path = tags[bases[text] : bases[text] + len(logits[text])]
            scores[text] = self._careful_scores(logits[text], path, mentions[text])
        labels = self._chain.labels
        return [
            [
                ScoredSpan(first, last, labels[label], min(1.0, score))
                for (first, last, label), score in zip(mentions[text], scores[text], strict=True)
            ]
            if text in mentions
            else []
            for text in range(len(logits))
        ]

    def probabilities(self, logits: npt.NDArray[np.floating]) -> Floats:
        """Softmax of logits / temperature, shape (decisions, tags)."""
        exp = self._relative(logits)
        return np.asarray(exp / exp.sum(1, keepdims=True))

    def _relative(self, logits: npt.NDArray[np.floating]) -> Floats:
        """Probabilities over that of the best tag, shape (decisions, tags)."""
        scaled = logits.astype(np.float64) / self.temperature
        return np.asarray(np.exp(scaled - scaled.max(1, keepdims=True)))

    def best_tags(self, logits: npt.NDArray[np.floating]) -> Ints:
        """The legal tag sequence of highest probability, shape (decisions,)."""
        tags = np.pad(logits.argmax(1), 1, constant_values=self._outside)
        make_legal(tags, logits, self.grammar)
        return np.asarray(tags[1:-1])

    def _make_legal(self, tags: Ints, bases: Ints, logits: Sequence[npt.NDArray[np.floating]]) -> set[int]:
        """Give each text whose best tags are not legal its best legal ones, and name these texts."""
        legal = self.grammar.legal[tags[:-1], tags[1:]]
        if legal.all():
            return set()
        illegal = np.searchsorted(bases, np.flatnonzero(~legal) + 1, side="right") - 1
        texts = set(illegal.tolist())
        for text in texts:
            base, values = bases[text], logits[text]
            make_legal(tags[base - 1 : base + len(values) + 1], values, self.grammar)
        return texts

    def _mentions(self, tags: Ints, bases: Ints) -> dict[int, list[Mention]]:
        """The entities that the tags of each text spell; texts without any are left out."""
        inside = np.flatnonzero(tags != self._outside)
        joined = self.grammar.joins[tags[inside - 1], tags[inside]].tolist()
        texts = (np.searchsorted(bases, inside, side="right") - 1).tolist()
        starts, labels = bases.tolist(), self._labels[tags[inside]].tolist()
        mentions: dict[int, list[Mention]] = {}
        first = -1
        for at, text, more, label in zip(inside.tolist(), texts, joined, labels, strict=True):
            at -= starts[text]
            if more:
                mentions[text][-1] = first, at, label
            else:
                first = at
                mentions.setdefault(text, []).append((at, at, label))
        return mentions

    def _steady_scores(
        self, logits: Sequence[npt.NDArray[np.floating]], mentions: Mapping[int, Sequence[Mention]]
    ) -> dict[int, list[float]]:
        """The probability of each mention of texts whose best tags are the most probable of each decision,
        so that these weigh one and the others no more."""
        if not mentions:
            return {}
        chosen = [logits[text] for text in mentions]
        weights = self._chain.weights(self._relative(np.concatenate(chosen) if chosen[1:] else chosen[0]))
        scores, start = {}, 0
        for text, values in zip(mentions, chosen, strict=True):
            end = start + len(values)
            scores[text] = self._chain.posteriors(weights.cut(start, end), mentions[text])
            start = end
        return scores

    def _careful_scores(
        self, logits: npt.NDArray[np.floating], tags: Ints, mentions: Sequence[Mention]
    ) -> list[float]:
        """The probability of each mention of one text, whose tags may be ever so improbable."""
        weights = np.maximum(self.probabilities(logits), _FLOOR)
        scores = self._chain.posteriors(self._chain.weights(weights), mentions, _CAREFUL)
        # Where entities touch, the first tag's weight is in the score already.
        logs = np.append(0.0, np.log(weights[np.arange(len(tags)), tags]).cumsum())
        begin = [first + self._chain.touching for first, _, _ in mentions]
        own = np.exp(logs[[last + 1 for _, last, _ in mentions]] - logs[begin])
        return [score * weight for score, weight in zip(scores, own.tolist(), strict=True)]
