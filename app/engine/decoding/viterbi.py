"""Viterbi's algorithm finds the best legal tags of a text.

Most texts can give each decision the best tag by itself. Where that tag is illegal after the one before,
the algorithm (Viterbi 1967, "Error bounds for convolutional codes and an asymptotically optimum decoding
algorithm") solves the decisions around that place, until a bound shows that the tags beyond are right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from app.engine.decoding.grammar import Grammar
from app.engine.text.words import Ints

Floats = npt.NDArray[np.floating]

_WIDER = 4
"""Factor by which a window grows on either side, if the tags beyond it may still change."""


@dataclass
class _Window:
    """Holds the decisions `low:high` around one or more illegal places.

    Attributes:
        first, last: the first and the last illegal place; a place has the number of the decision after it.
        sure: whether the window's best legal tags are known to be part of the text's best ones.
    """

    low: int
    high: int
    first: int
    last: int
    sure: bool = False


def make_legal(tags: Ints, logits: Floats, rules: Grammar, around: int = 8) -> None:
    """Turn each decision's best tag, in place, into the legal sequence with the highest sum of logits.

    A decision's margin is the distance from its best logit to the second best: any other tag costs at least
    that much. Windows lie around the illegal places; they do not touch, and decisions between them keep
    their best tags. Let the best legal tags of a window cost C. They are sure if the margins between the
    illegal places and either edge of the window sum to at least C, or the text ends there. For then the
    text's best sequence costs at least C in this window too: if it avoids all best tags on one side, by the
    margins; else it has a best tag on both sides, and its tags between them fit the best tags beyond.

    Args:
        tags: best tags of the text with an `O` before and one behind, shape (decisions + 2,).
        logits: shape (decisions, tags).
        rules: which tag may follow which.
        around: decisions on either side of an illegal place that are solved first; it only affects speed.
    """
    count = len(logits)
    windows = [
        _Window(max(place - around, 0), min(place + around, count), place, place)
        for place in np.flatnonzero(~rules.legal[tags[:-1], tags[1:]]).tolist()
    ]
    while not all(window.sure for window in windows):
        windows = [*_apart(windows)]
        for window in windows:
            if not window.sure:
                _solve(window, tags, logits, rules)
        windows = [window if window.sure else _widened(window, count) for window in windows]


def _apart(windows: Sequence[_Window]) -> Iterator[_Window]:
    """Yield the windows in order, those that touch joined to one that must be solved anew."""
    (now, *others) = windows
    for window in others:
        if window.low <= now.high:
            now = _Window(min(now.low, window.low), max(now.high, window.high), now.first, window.last)
        else:
            yield now
            now = window
    yield now


def _widened(window: _Window, count: int) -> _Window:
    low = window.first - _WIDER * (window.first - window.low)
    high = window.last + _WIDER * (window.high - window.last)
    return replace(window, low=max(low, 0), high=min(high, count))


def _solve(window: _Window, tags: Ints, logits: Floats, rules: Grammar) -> None:
    """Give a window its best legal tags, and say in it whether they are sure."""
    low, high = window.low, window.high
    values = logits[low:high].astype(np.float64)
    tags[low + 1 : high + 1], best = _best(values, rules, tags[low], tags[high + 1])
    cost = values.max(1).sum() - best  # infinite if no tags are legal
    before, behind = values[: window.first - low], values[window.last - low :]
    window.sure = (low == 0 or _margins(before) >= cost) and (
        high == len(logits) or _margins(behind) >= cost
    )


def _margins(logits: Floats) -> float:
    """Return the sum of the decisions' margins, see `make_legal`."""
    second, best = np.partition(logits, -2, axis=1)[:, -2:].T
    return float((best - second).sum())


def _best(logits: Floats, rules: Grammar, before: int, behind: int) -> tuple[Ints, float]:
    """Return the best legal tags of decisions between two tags, shape (decisions,), and the sum of their
    logits, which is minus infinity if no tags are legal."""
    forbidden = np.where(rules.legal, 0.0, -np.inf)
    back = np.zeros(logits.shape, np.int64)
    reach = logits[0] + forbidden[before]
    for step in range(1, len(logits)):
        paths = reach[:, None] + forbidden
        back[step] = paths.argmax(0)
        reach = paths.max(0) + logits[step]
    reach = reach + forbidden[:, behind]
    path = np.zeros(len(logits), np.int64)
    path[-1] = reach.argmax()
    for step in range(len(logits) - 1, 0, -1):
        path[step - 1] = back[step, path[step]]
    return path, float(reach.max())
