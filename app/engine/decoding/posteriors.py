"""Posteriors are the exact probabilities of entities, by the forward-backward algorithm.

See Rabiner 1989, "A tutorial on hidden Markov models". The score of an entity is the summed weight of all
legal tag sequences that contain exactly its span with its label, divided by that of all legal sequences.

One small state machine describes the legal sequences of every scheme. Its states are "free", which is
outside of entities, and "within an entity" for each label. Each decision has a weight for staying free, and
for each label the weights of entering, staying within and leaving an entity. In all schemes but BIOES an
entity may end with any of its tags, so there "free" includes the weight of being within an entity. A step
has so few numbers that plain Python is faster than numpy's calls.
"""

from collections.abc import Sequence
from math import exp, log
from operator import mul
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.labels import PREFIXES_BY_PART, Scheme, split_tag

Floats = npt.NDArray[np.float64]
Mention = tuple[int, int, int]
"""A mention is an entity of a text: its first decision, its last decision and its label's number."""

State = tuple[float, ...]
"""A state is the weight of being free, then that of being within an entity of each label."""

RESCALE = 64
"""Steps between two rescalings of the state, often enough that weights of at most one do not overflow."""

_SLICE = 4096
"""Decisions whose weights are converted to Python's floats at a time, to bound a long text's memory."""


class Weights(NamedTuple):
    """Holds the weights of decisions in the order in which the state machine needs them.

    Attributes:
        outside: weight of `O`, shape (decisions,).
        front: weight of staying free, then for each label those of entering, staying within and leaving,
            shape (decisions, 1 + 3 * labels).
        back: the same as `front`, with entering and leaving swapped.
    """

    outside: Floats
    front: Floats
    back: Floats

    def cut(self, start: int, end: int) -> "Weights":
        """Return the weights of the decisions `start:end`, which are those of one text."""
        return Weights(self.outside[start:end], self.front[start:end], self.back[start:end])


class Chain:
    """Sums the weights of the legal tag sequences over some tags.

    Attributes:
        labels: the label of each number.
        touching: whether an entity's first tag depends on the decision before it, and its end on the
            decision after it (in IO and IOB1).
    """

    def __init__(self, tags: Sequence[str], scheme: Scheme):
        self.touching = scheme in ("IO", "IOB1")
        self.labels = sorted({split_tag(tag)[1] for tag in tags} - {""})
        columns = {tag: number for number, tag in enumerate(tags)}
        self._outside = columns["O"]
        names: list[str | None] = list(self.labels)
        self._walk = _walk
        if len(names) <= 4:
            self._walk = _walk_four
            names += [None] * (4 - len(names))
        self._start: State = (1.0, *[0.0] * len(names))
        nothing = len(tags)  # a column of zeros
        free, enter, stay, leave = (
            [columns.get(f"{prefix}-{name}", nothing) for name in names]
            for prefix in PREFIXES_BY_PART[scheme]
        )
        self._free = np.array([self._outside, *free])
        self._front = np.array([[0, 0, 0], *zip(enter, stay, leave, strict=True)]).reshape(-1)[2:]
        self._back = np.array([[0, 0, 0], *zip(leave, stay, enter, strict=True)]).reshape(-1)[2:]

    def weights(self, values: Floats) -> Weights:
        """Arrange the weights of decisions for the state machine.

        Args:
            values: the weight of each tag, shape (decisions, tags).
        """
        padded = np.zeros((len(values), values.shape[1] + 1))
        padded[:, :-1] = values
        front, back = padded.take(self._front, axis=1), padded.take(self._back, axis=1)
        front[:, 0] = back[:, 0] = padded.take(self._free, axis=1).sum(1)
        return Weights(padded[:, self._outside], front, back)

    def posteriors(
        self, weights: Weights, mentions: Sequence[Mention], rescale: int = RESCALE
    ) -> list[float]:
        """Return the probability of each mention of one text, if each of the mention's tags weighs one.

        With other weights, multiply by the weights of the mention's tags, without the first tag's if
        `touching`.

        Args:
            weights: weights of the text's decisions.
            mentions: entities of the text, in order.
            rescale: steps between two rescalings, which keep sums of weights in the range of float64.
        """
        count = len(weights.front)
        touch = int(self.touching)  # then `_opened` and `_closed` take one decision on either side
        before = [max(first - touch, 0) for first, _, _ in mentions]
        after = [max(count - 1 - last - touch, 0) for _, last, _ in reversed(mentions)]
        lefts = self._reach(weights.front[: before[-1]], before, rescale)
        *rights, whole = self._reach(weights.back[::-1], [*after, count], rescale)
        total = log(whole.state[0]) + whole.log
        scores = []
        for (first, last, label), left, right in zip(mentions, lefts, reversed(rights), strict=True):
            opened, closed = left.state[0], right.state[0]
            if self.touching:
                opened = _opened(weights, first, label, left.state)
                closed = _closed(weights, last, label, right.state)
            scale = left.log + right.log - total
            # A weight below the smallest float became zero, which has no logarithm.
            scores.append(exp(log(opened) + log(closed) + scale) if opened and closed else 0.0)
        return scores

    def _reach(self, table: Floats, wanted: Sequence[int], rescale: int) -> "list[_Reached]":
        """Walk through a table's rows and return the states after `wanted` numbers of steps, ascending."""
        reached: list[_Reached] = []
        now, scale = self._start, 0.0
        for low in range(0, max(len(table), 1), _SLICE):
            states, logs = self._walk(now, table[low : low + _SLICE].tolist(), rescale)
            while len(reached) < len(wanted) and wanted[len(reached)] - low < len(states):
                at = wanted[len(reached)] - low
                reached.append(_Reached(states[at], scale + logs[at // rescale]))
            now, scale = states[-1], scale + logs[-1]
        return reached


class _Reached(NamedTuple):
    """Holds a scaled state, and the logarithm of the factor that it must be multiplied by."""

    state: State
    log: float


def _opened(weights: Weights, first: int, label: int, state: State) -> float:
    """Return the weight of all sequences up to and with an entity's first decision; `state` is that before
    the preceding decision, or the start."""
    enter, leave = weights.front[first, 1::3], weights.front[first, 3::3]
    if first == 0:
        return float(enter[label])
    free, within = state[0], np.array(state[1:])
    row = weights.front[first - 1]
    before = free * row[1::3] + within * row[2::3]
    own, before[label] = before[label], 0.0
    other = free * weights.outside[first - 1] + sum(before.tolist())
    return float(other * enter[label] + own * leave[label])


def _closed(weights: Weights, last: int, label: int, state: State) -> float:
    """Return the weight of all that follows an entity; `state` is that after the next decision."""
    if last + 1 == len(weights.front):
        return 1.0
    free, within = state[0], np.array(state[1:])
    row = weights.front[last + 1]
    after = row[1::3] * (free + within)
    after[label] = row[3::3][label] * (free + within[label])
    return float(free * weights.outside[last + 1] + sum(after.tolist()))


def _walk(now: State, rows: list[list[float]], rescale: int) -> tuple[list[State], list[float]]:
    """Take a state through steps: through rows of `Weights.front` to sum the weights of what precedes, or
    through reversed rows of `Weights.back` to sum the weights of what follows.

    Returns:
        The scaled state before each step and after the last, and the logarithms of the scales. A scale
        holds for `rescale` steps.
    """
    states, logs = [now], [0.0]
    for number, row in enumerate(rows, 1):
        free, *within = now
        now = (
            free * row[0] + sum(map(mul, within, row[3::3])),
            *(free * enter + w * stay for w, enter, stay in zip(within, row[1::3], row[2::3], strict=True)),
        )
        if number % rescale == 0:
            now = _scaled(now, logs)
        states.append(now)
    return states, logs


def _walk_four(now: State, rows: list[list[float]], rescale: int) -> tuple[list[State], list[float]]:
    """Do what `_walk` does for exactly four labels, three times faster."""
    states, logs = [now], [0.0]
    f, a, b, c, d = now
    left = rescale
    for free, a_in, a_on, a_out, b_in, b_on, b_out, c_in, c_on, c_out, d_in, d_on, d_out in rows:
        f, a, b, c, d = now = (
            f * free + a * a_out + b * b_out + c * c_out + d * d_out,
            f * a_in + a * a_on,
            f * b_in + b * b_on,
            f * c_in + c * c_on,
            f * d_in + d * d_on,
        )
        left -= 1
        if not left:
            f, a, b, c, d = now = _scaled(now, logs)
            left = rescale
        states.append(now)
    return states, logs


def _scaled(state: State, logs: list[float]) -> State:
    """Return the state scaled to a maximum of one, and append the logarithm of its scale to `logs`."""
    top = max(state)
    logs.append(logs[-1] + log(top))
    return tuple(weight / top for weight in state)
