"""Decoding: from the logits of a text's words to entities, each with its exact probability.

Tag sequences form a chain whose illegal transitions have probability zero and whose legal ones are
all alike, so `P(tags) ∝ Π_t softmax(logits_t / temperature)[tags_t]` over the legal sequences. The
best sequence is found by Viterbi's algorithm, an entity's score by the forward-backward algorithm
(Rabiner 1989, "A tutorial on hidden Markov models"): the summed probability of all legal sequences
that contain exactly this span with this label.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.words import Ints

Scheme = Literal["IO", "IOB1", "IOB2", "BIOES"]
Floats = npt.NDArray[np.float64]

_PREFIXES: dict[Scheme, str] = {"IO": "I", "IOB1": "BI", "IOB2": "BI", "BIOES": "BIES"}
_FLOOR = 1e-30  # keeps a chunk of `_RESCALE` steps above the smallest float64
_RESCALE = 8
_CHUNK = 4096


class ScoredSpan(NamedTuple):
    """Decisions `first` to `last` (inclusive) form an entity `label` with probability `score`."""

    first: int
    last: int
    label: str
    score: float


def split_tag(tag: str) -> tuple[str, str]:
    """`B-PER` → (`B`, `PER`); `O` → (`O`, "")."""
    prefix, _, label = tag.partition("-")
    return prefix, label


def tags_of(labels: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Every tag of a scheme over these labels, `O` first."""
    return (
        "O",
        *(f"{prefix}-{label}" for label in labels for prefix in _PREFIXES[scheme]),
    )


@dataclass(frozen=True)
class Grammar:
    """Which tag may follow which, and whether it then continues the entity before it.

    Attributes:
        legal: (tags, tags) whether the second may follow the first.
        joins: (tags, tags) whether the second continues the entity that the first is in.
        first: (tags,) may open a text.
        final: (tags,) may end one.
    """

    legal: npt.NDArray[np.bool_]
    joins: npt.NDArray[np.bool_]
    first: npt.NDArray[np.bool_]
    final: npt.NDArray[np.bool_]


def joins(before: str, after: str, scheme: Scheme) -> bool:
    """Whether the second tag continues the entity that the first is in."""
    (left, left_label), (right, right_label) = split_tag(before), split_tag(after)
    if "O" in (left, right) or left_label != right_label:
        return False
    if scheme == "BIOES":
        return left in "BI" and right in "IE"
    return right == "I"


def legal(before: str, after: str, scheme: Scheme) -> bool:
    """Whether the second tag may follow the first; the two ends of a text are as `O`."""
    left, right = before[0], after[0]
    if right not in "O" + _PREFIXES[scheme]:
        return False
    if scheme == "BIOES":
        return joins(before, after, scheme) if left in "BI" else right in "OBS"
    if scheme == "IOB2":
        return right != "I" or joins(before, after, scheme)
    if scheme == "IOB1":  # B only parts two neighbours of one label
        return right != "B" or (left != "O" and before[2:] == after[2:])
    return True


def grammar(tags: Sequence[str], scheme: Scheme) -> Grammar:
    """The grammar of `tags` under `scheme`."""
    return Grammar(
        np.array([[legal(a, b, scheme) for b in tags] for a in tags]),
        np.array([[joins(a, b, scheme) for b in tags] for a in tags]),
        np.array([legal("O", tag, scheme) for tag in tags]),
        np.array([legal(tag, "O", scheme) for tag in tags]),
    )


def _scaled(values: Floats) -> tuple[Floats, float]:
    """`values` scaled to a maximum of one, and the logarithm of what they were divided by."""
    top = values.max()
    return values / top, float(np.log(top))


class Decoder:
    """Finds the entities of a text from its logits. Holds no state of a text.

    Args:
        tags: the tag of each logit column; one of them is `O`.
        scheme: how tags spell entities.
        temperature: logits are divided by it.
    """

    def __init__(self, tags: Sequence[str], scheme: Scheme, temperature: float = 1.0):
        self.tags = tuple(tags)
        self.grammar = grammar(tags, scheme)
        self.temperature = temperature
        self._labels = [split_tag(tag)[1] for tag in tags]
        self._outside = self.tags.index("O")
        legal, joins = self.grammar.legal, self.grammar.joins
        # Tags with the same future are one state of the chain: for BIOES over three labels, four
        # states stand for thirteen tags.
        futures = np.concatenate([legal, joins, self.grammar.final[:, None]], axis=1)
        _, member, state = np.unique(futures, axis=0, return_index=True, return_inverse=True)
        state = state.reshape(-1)
        self._states = len(member)
        onto = np.eye(self._states)[state]  # (tags, states)
        # step[b, c, d]: state c may be followed by tag b, which is in state d
        step = legal[member].T[:, :, None] * onto[:, None, :]
        self._step = step.reshape(len(self.tags), -1)
        self._enter = (legal & ~joins)[member].astype(np.float64)  # (states, tags)
        self._leave = (legal & ~joins).astype(np.float64)  # (tags, tags)
        self._joins = joins.astype(np.float64)
        self._onto = onto
        self._final = self.grammar.final[member].astype(np.float64)
        self._first = self.grammar.first.astype(np.float64)
        self._last = self.grammar.final.astype(np.float64)
        names = np.array(self._labels)
        self._own = {name: (names == name).astype(np.float64) for name in self._labels}

    def decode(self, logits: npt.NDArray[np.floating]) -> list[ScoredSpan]:
        """The entities of one text, in order.

        Args:
            logits: shape (decisions, tags).
        """
        if not len(logits):
            return []
        best = self.best_tags(logits)
        runs = list(self._runs(best))
        if not runs:
            return []
        scores = self._posteriors(np.maximum(self.probabilities(logits), _FLOOR), runs)
        return [ScoredSpan(*run, score) for run, score in zip(runs, scores, strict=True)]

    def probabilities(self, logits: npt.NDArray[np.floating]) -> Floats:
        """Softmax of logits / temperature, shape (decisions, tags)."""
        scaled = logits.astype(np.float64) / self.temperature
        exp = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(exp / exp.sum(1, keepdims=True))

    def best_tags(self, logits: npt.NDArray[np.floating]) -> Ints:
        """The legal tag sequence of highest probability, shape (decisions,)."""
        rules = self.grammar
        best = logits.argmax(1)
        if rules.first[best[0]] and rules.final[best[-1]] and rules.legal[best[:-1], best[1:]].all():
            return np.asarray(best)  # nothing legal can beat the best of all sequences
        return self._viterbi(logits.astype(np.float64))

    def _viterbi(self, logits: Floats) -> Ints:
        rules = self.grammar
        forbidden = np.where(rules.legal, 0.0, -np.inf)
        back = np.zeros(logits.shape, np.int64)
        reach = logits[0] + np.where(rules.first, 0.0, -np.inf)
        for step in range(1, len(logits)):
            paths = reach[:, None] + forbidden
            back[step] = paths.argmax(0)
            reach = paths.max(0) + logits[step]
        path = np.zeros(len(logits), np.int64)
        path[-1] = (reach + np.where(rules.final, 0.0, -np.inf)).argmax()
        for step in range(len(logits) - 1, 0, -1):
            path[step - 1] = back[step, path[step]]
        return path

    def _runs(self, tags: Ints) -> Iterator[tuple[int, int, str]]:
        inside = np.flatnonzero(tags != self._outside)
        joins = self.grammar.joins
        first = previous = -1
        for at in inside.tolist():
            if previous >= 0 and at == previous + 1 and joins[tags[previous], tags[at]]:
                previous = at
                continue
            if previous >= 0:
                yield first, previous, self._labels[tags[first]]
            first = previous = at
        if previous >= 0:
            yield first, previous, self._labels[tags[first]]

    def _posteriors(self, p: Floats, runs: Sequence[tuple[int, int, str]]) -> list[float]:
        """The probability of each run, given all of which is at least `_FLOOR`."""
        count = len(p)
        # No score needs what lies before the first run's end from behind, or beyond the last run's
        # start from the front; where both have been, they give the sum over all sequences.
        meet = min(runs[0][1] + 1, count - 1)
        alpha, alpha_log = self._forward(p[: max(meet, runs[-1][0] - 1) + 1])
        beta, beta_log = self._backward(p[meet:])
        total = np.log(alpha[meet] @ beta[0]) + alpha_log[meet] + beta_log[0]
        scores = []
        for first, last, label in runs:
            log = -total
            enter = self._first
            if first:
                enter = alpha[first - 1] @ self._enter
                log += alpha_log[first - 1]
            inside, scale = _scaled(self._own[label] * enter * p[first])
            log += scale
            for at in range(first + 1, last + 1):
                inside, scale = _scaled((inside @ self._joins) * p[at])
                log += scale
            leave = self._last
            if last + 1 < count:
                after = beta[last + 1 - meet]
                leave, scale = _scaled(self._leave @ (p[last + 1] * (self._onto @ after)))
                log += beta_log[last + 1 - meet] + scale
            scores.append(min(1.0, float(np.exp(log + np.log(inside @ leave)))))
        return scores

    def _steps(self, p: Floats, backwards: bool = False) -> Iterator[tuple[int, Floats]]:
        """Each chunk's transition matrices, shape (decisions of it, states, states)."""
        starts = range(0, len(p), _CHUNK)
        for start in reversed(starts) if backwards else starts:
            chunk = p[start : start + _CHUNK] @ self._step
            yield start, chunk.reshape(-1, self._states, self._states)

    def _forward(self, p: Floats) -> tuple[Floats, Floats]:
        """alpha[t, state] up to its scale, and the logarithm of that scale."""
        count = len(p)
        alpha = np.zeros((count, self._states))
        logs = np.zeros(count)
        now, log = (p[0] * self.grammar.first) @ self._onto, 0.0
        alpha[0] = now
        for start, matrices in self._steps(p):
            for offset, matrix in enumerate(matrices):
                at = start + offset
                if at == 0:
                    continue
                now = now @ matrix
                if at % _RESCALE == 0:
                    now, scale = _scaled(now)
                    log += scale
                alpha[at] = now
                logs[at] = log
        return alpha, logs

    def _backward(self, p: Floats) -> tuple[Floats, Floats]:
        """beta[t, state] up to its scale, and the logarithm of that scale."""
        count = len(p)
        beta = np.zeros((count, self._states))
        logs = np.zeros(count)
        now, log = self._final, 0.0
        beta[-1] = now
        for start, matrices in self._steps(p, backwards=True):
            for offset in range(len(matrices) - 1, -1, -1):
                at = start + offset
                if at == 0:
                    continue
                now = matrices[offset] @ now
                if at % _RESCALE == 0:
                    now, scale = _scaled(now)
                    log += scale
                beta[at - 1] = now
                logs[at - 1] = log
        return beta, logs
