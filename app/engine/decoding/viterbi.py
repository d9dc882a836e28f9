"""Viterbi: the best legal tags of a text.

Mostly each decision has its own best tag. Where that is not legal after the tag before, Viterbi's algorithm
(1967, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm") solves the
decisions around that place, and more of them only until it is sure that the tags beyond stay as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from app.engine.decoding.grammar import Grammar
from app.engine.text.words import Ints

Floats = npt.NDArray[np.floating]

_WIDER = 4
"""So many times as many decisions on either side are solved next, if the tags beyond may change."""


@dataclass
class _Window:
    """The decisions from `low` up to `high`, the latter not included, around one or more illegal places.

    Attributes:
        first, last: the first and the last place; each is numbered as the decision behind it.
        sure: whether its best legal tags are part of the best of all.
    """

    low: int
    high: int
    first: int
    last: int
    sure: bool = False


def make_legal(tags: Ints, logits: Floats, rules: Grammar, around: int = 8) -> None:
    """Turn each decision's best tag into the legal sequence of the highest sum of logits, in place.

    Any tag but the best costs a decision at least its margin, which is the distance to the second best.
    Windows that do not touch each other are laid around the illegal places, between decisions that keep
    their best tags. Let the best legal tags of a window cost C. They are sure if, on either side between
    the window's edge and its places, the margins sum to at least C or the text ends. The reason is that the
    best sequence of the whole text costs at least C in this window, too. Either it leaves all best tags of
    one side, or it meets best tags on both sides, and then its tags between them would be legal with the
    best tags beyond.

    Args:
        tags: of the text, with an `O` before and one behind, shape (decisions + 2,).
        logits: shape (decisions, tags).
        around: decisions on either side of an illegal place that are solved first. The result does not
            depend on it.
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
    """The windows in order. Windows that touch become one, which must be solved anew."""
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
    """Give a window its best legal tags, and find out whether they are sure."""
    low, high = window.low, window.high
    values = logits[low:high].astype(np.float64)
    tags[low + 1 : high + 1], best = _best(values, rules, tags[low], tags[high + 1])
    cost = values.max(1).sum() - best  # endless where nothing is legal
    before, behind = values[: window.first - low], values[window.last - low :]
    window.sure = (low == 0 or _margins(before) >= cost) and (
        high == len(logits) or _margins(behind) >= cost
    )


def _margins(logits: Floats) -> float:
    """The sum of the decisions' margins."""
    second, best = np.partition(logits, -2, axis=1)[:, -2:].T
    return float((best - second).sum())


def _best(logits: Floats, rules: Grammar, before: int, behind: int) -> tuple[Ints, float]:
    """The best legal tags of decisions between two tags, shape (decisions,), and the sum of their logits,
    which is minus infinity if no tags are legal."""
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
