"""Viterbi: the best legal tags of a text.

Mostly these are each decision's own best tags. Where some are not legal after others, Viterbi's algorithm
(1967, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm") looks at the
decisions around, and at no others: what is far away stays as it was, for sure.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.engine.grammar import Grammar
from app.engine.words import Ints

Floats = npt.NDArray[np.floating]

_AROUND, _WIDER = 8, 4
"""Decisions on either side of an illegal place that are looked at first, and how many times more next."""


def make_legal(tags: Ints, logits: Floats, rules: Grammar) -> bool:
    """Turn each decision's best tag into the legal sequence of the highest sum of logits, in place.

    Any other tag than its best one costs a decision at least its margin, the distance to its second best.
    Let the best legal sequences of some windows, one around each illegal place, cost C together. The best
    of all costs no more, so it cannot leave the best tags all along a stretch whose margins sum to more
    than C. Where such a stretch lies on both sides of a place within its window, the best of all meets the
    best tags there, and no window can gain by what is beyond. Until then the windows grow.

    Args:
        tags: of the text, with an `O` before and one behind, shape (decisions + 2,).
        logits: shape (decisions, tags).

    Returns:
        Whether anything was not legal.
    """
    places = np.flatnonzero(~rules.legal[tags[:-1], tags[1:]])  # each before the decision of its number
    if not len(places):
        return False
    around = _AROUND
    while True:
        windows = _windows(places.tolist(), around, len(logits))
        best = [_best(logits[low:high], rules, tags[low], tags[high + 1]) for low, high in windows]
        cost = sum(
            logits[low:high].max(1).sum(dtype=np.float64)
            - logits[np.arange(low, high), path].sum(dtype=np.float64)
            for (low, high), path in zip(windows, best, strict=True)
        )
        stretches = [
            logits[part]
            for low, high in windows
            for part, open_end in (
                (slice(low, low + around), low > 0),
                (slice(high - around, high), high < len(logits)),
            )
            if open_end
        ]
        if all(_margins(stretch) > cost for stretch in stretches):
            break
        around *= _WIDER
    for (low, high), path in zip(windows, best, strict=True):
        tags[low + 1 : high + 1] = path
    return True


def _windows(places: Sequence[int], around: int, count: int) -> list[tuple[int, int]]:
    """The decisions around some places, from the first to before the last; those that touch are one."""
    windows: list[tuple[int, int]] = []
    for place in places:
        low, high = max(place - around, 0), min(place + around, count)
        if windows and low <= windows[-1][1]:
            low = windows.pop()[0]
        windows.append((low, high))
    return windows


def _margins(logits: Floats) -> float:
    """By how much the decisions prefer their best tags, together."""
    second, best = np.partition(logits, -2, axis=1)[:, -2:].T
    return float((best - second).sum(dtype=np.float64))


def _best(logits: Floats, rules: Grammar, before: int, behind: int) -> Ints:
    """The best legal tags of decisions between two tags, shape (decisions,)."""
    values = logits.astype(np.float64)
    forbidden = np.where(rules.legal, 0.0, -np.inf)
    back = np.zeros(values.shape, np.int64)
    reach = values[0] + forbidden[before]
    for step in range(1, len(values)):
        paths = reach[:, None] + forbidden
        back[step] = paths.argmax(0)
        reach = paths.max(0) + values[step]
    path = np.zeros(len(values), np.int64)
    path[-1] = (reach + forbidden[:, behind]).argmax()
    for step in range(len(values) - 1, 0, -1):
        path[step - 1] = back[step, path[step]]
    return path
