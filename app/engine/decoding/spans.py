"""Spans are the entities that logits spell, each with its exact probability.

Illegal tag sequences have probability zero. For legal ones
`P(tags) ∝ Π_t softmax(logits_t / temperature)[tags_t]`. The module `viterbi` finds the most probable
sequence, and `posteriors` scores its entities.
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
"""Steps between two rescalings of sums for texts whose tags may have very small probabilities."""

_FLOOR = 1e-30
"""Least value of a probability, so that a product of `_CAREFUL` of them stays above the least float64."""


class ScoredSpan(NamedTuple):
    """Says that decisions `first` to `last` (inclusive) are an entity `label` with probability `score`."""

    first: int
    last: int
    label: str
    score: float


class Decoder:
    """Finds the entities of texts from their logits. It keeps nothing of any text.

    Args:
        tags: the tag of each logit column; one of them is `O`.
        scheme: how tags spell entities.
        temperature: divisor of the logits.
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
        """Return the entities of one text, in order, from its logits of shape (decisions, tags)."""
        return self.decode_all([logits])[0]

    def decode_all(self, logits: Sequence[npt.NDArray[np.floating]]) -> list[list[ScoredSpan]]:
        """Return the entities of each text, equal to the bit to those of `decode`.

        Args:
            logits: logits of each text, shape (decisions, tags).
        """
        if not logits:
            return []
        best = (np.concatenate(logits) if len(logits) > 1 else logits[0]).argmax(1)
        if (best == self._outside).all():  # only `O` is always legal
            return [[] for _ in logits]
        lengths = np.array([len(text) for text in logits])
        # An `O` stands before, between and behind the texts, because a text's ends count as `O`.
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
        """Return the softmax of logits / temperature, shape (decisions, tags)."""
        exp = self._relative(logits)
        return np.asarray(exp / exp.sum(1, keepdims=True))

    def _relative(self, logits: npt.NDArray[np.floating]) -> Floats:
        """Return each probability divided by that of the decision's best tag, shape (decisions, tags)."""
        scaled = logits.astype(np.float64) / self.temperature
        return np.asarray(np.exp(scaled - scaled.max(1, keepdims=True)))

    def best_tags(self, logits: npt.NDArray[np.floating]) -> Ints:
        """Return the legal tag sequence of the highest probability, as columns, shape (decisions,)."""
        tags = np.pad(logits.argmax(1), 1, constant_values=self._outside)
        make_legal(tags, logits, self.grammar)
        return np.asarray(tags[1:-1])

    def _make_legal(self, tags: Ints, bases: Ints, logits: Sequence[npt.NDArray[np.floating]]) -> set[int]:
        """Make the tags of each text legal, in place, and return the numbers of the texts that changed."""
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
        """Return the entities that the tags of each text spell, without the texts that have none."""
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
        """Return the probability of each mention, for texts where each decision has its most probable tag:
        those tags weigh one, and the others at most one."""
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
        """Return the probability of each mention of one text whose tags may have tiny probabilities."""
        weights = np.maximum(self.probabilities(logits), _FLOOR)
        scores = self._chain.posteriors(self._chain.weights(weights), mentions, _CAREFUL)
        # If entities touch, the score includes the first tag's weight already.
        logs = np.append(0.0, np.log(weights[np.arange(len(tags)), tags]).cumsum())
        begin = [first + self._chain.touching for first, _, _ in mentions]
        own = np.exp(logs[[last + 1 for _, last, _ in mentions]] - logs[begin])
        return [score * weight for score, weight in zip(scores, own.tolist(), strict=True)]
