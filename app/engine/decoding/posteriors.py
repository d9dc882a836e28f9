"""Posteriors: the exact probability of an entity, by the forward-backward algorithm.

See Rabiner 1989, "A tutorial on hidden Markov models". The score of an entity is the summed weight
of all legal tag sequences that contain exactly its span with its label, over that of all legal ones.

The legal sequences of every scheme are those of one small machine. The machine is free, or within an
entity of a label; each decision has a weight for staying free, and for each label one to enter it, to stay
within, and to leave. In all schemes but BIOES an entity may end with any of its tags: there "free" holds
the weights within as well. A step has so few numbers that plain Python is faster than numpy's calls.
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
"""An entity in a text: its first and its last decision, and the number of its label."""

State = tuple[float, ...]
"""The weight of being free, then of being within each label."""

RESCALE = 64
"""Steps after which sums of weights are scaled. Sums of weights of at most one stay far below overflow."""

_SLICE = 4096
"""Decisions whose weights are Python's numbers at a time, which bounds the memory that a long text
takes."""


class Weights(NamedTuple):
    """The weights of decisions, arranged for the machine.

    Attributes:
        outside: that of `O`, shape (decisions,).
        front: for staying free, then for each label to enter, to stay within and to leave, shape
            (decisions, 1 + 3 * labels).
        back: the same with entering and leaving swapped.
    """

    outside: Floats
    front: Floats
    back: Floats

    def cut(self, start: int, end: int) -> "Weights":
        """The weights of one text."""
        return Weights(self.outside[start:end], self.front[start:end], self.back[start:end])


class Chain:
    """The legal sequences over some tags.

    Attributes:
        labels: the labels, by number.
        touching: whether an entity's first tag depends on what stands before it, and its end on what
            follows (in IO and IOB1).
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
        """Arrange the weights of decisions for the machine.

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
        """The probability of each mention of one text, if each of its own tags weighs one.

        Otherwise the probability is this times the weights of its tags, of which the first tag's is left
        out if entities touch.

        Args:
            weights: the text's.
            mentions: its entities, in order.
            rescale: number of steps after which sums of weights could leave the range of float64.
        """
        count = len(weights.front)
        touch = int(self.touching)  # then one decision on either side is looked at by itself
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
            # a weight below the smallest float is zero
            scores.append(exp(log(opened) + log(closed) + scale) if opened and closed else 0.0)
        return scores

    def _reach(self, table: Floats, wanted: Sequence[int], rescale: int) -> "list[_Reached]":
        """The states after wanted numbers of steps, which ascend, on a walk through the rows of a table."""
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
    """A state up to its scale, and the logarithm of that scale."""

    state: State
    log: float


def _opened(weights: Weights, first: int, label: int, state: State) -> float:
    """The weight of all that ends in an entity's first decision, from the state before the decision
    before it (the start, if there is none)."""
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
    """The weight of all that follows an entity, from the state after the decision after its last."""
    if last + 1 == len(weights.front):
        return 1.0
    free, within = state[0], np.array(state[1:])
    row = weights.front[last + 1]
    after = row[1::3] * (free + within)
    after[label] = row[3::3][label] * (free + within[label])
    return float(free * weights.outside[last + 1] + sum(after.tolist()))


def _walk(now: State, rows: list[list[float]], rescale: int) -> tuple[list[State], list[float]]:
    """Take a state through steps: forward through rows of `Weights.front` it is what each state weighs
    so far; backward through `back`, what all that follows weighs for each state one could be in.

    Returns:
        The state before each step and after the last, up to its scale, and the logarithms of the scales,
        of which the next begins every `rescale` steps.
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
    """As `_walk`, for four labels, and three times faster."""
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
    """The state with a maximum of one; adds the logarithm of its scale."""
    top = max(state)
    logs.append(logs[-1] + log(top))
    return tuple(weight / top for weight in state)
