"""Choice: which of the rows that wait run together.

The row whose turn it is runs, with those of the next rows in turn that make the batch cheapest for each of
its sub-tokens. No numbers but lengths and costs are needed for that.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import inf

from app.engine.runtimes.cost import Cost

_LOOK_AHEAD, _PACKED_AHEAD = 10, 1.5
"""Rows considered at a time, in batches: more would cost time and hardly sort better. Fewer where padding
takes no time, as there is less to gain by sorting, and the row that waits longest may be somebody's whole
answer."""

_OVERTAKING, _SHORT_OVERTAKING = 2, 1
"""Sub-tokens that may overtake a row of their size class, in such looks ahead; the latter for short
requests where padding takes no time. A row of a rare length has few neighbours and waits until it is the
oldest, or until so many have overtaken it."""


def look_ahead(cost: Cost, max_tokens: int) -> int:
    """Sub-tokens of the rows that a batch is chosen among."""
    batches = _PACKED_AHEAD + (_LOOK_AHEAD - _PACKED_AHEAD) * cost.padding
    return int(batches * max_tokens) + 1


def overtaking(cost: Cost, max_tokens: int, size_class: int) -> int:
    """Sub-tokens that may come later than a row of their size class and run before it."""
    packed = _OVERTAKING if size_class else _SHORT_OVERTAKING
    looks = packed + (_OVERTAKING - packed) * cost.padding
    return int(looks * look_ahead(cost, max_tokens))


def choose_batch(lengths: Sequence[int], cost: Cost, max_tokens: int, most: float = inf) -> list[int]:
    """The places of row 0 and of the rows to run with it: those that make the batch cheapest a sub-token.

    They are neighbours by length. Large choices are searched coarsely, so that choosing stays cheap beside
    running.

    Args:
        max_tokens: sub-tokens of a batch of several rows at most, padding included.
        most: size of such a batch at most; see `Cost.size`.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    first = order.index(0)
    ordered = [lengths[i] for i in order]
    upto = [0, *accumulate(ordered)]
    best, span = inf, (first, first + 1)
    for end in range(first + 1, len(order) + 1, 1 + len(order) // 256):
        longest = ordered[end - 1]
        lowest = max(0, end - max(1, max_tokens // longest))
        if lowest > first:
            break
        for start in range(first, lowest - 1, -1 - (first - lowest) // 32):
            rows, tokens = end - start, upto[end] - upto[start]
            size = cost.size(rows, longest, tokens)
            if size > most and rows > 1:
                break
            price = (cost.fixed + cost.per_token * size) / tokens
            if price < best:
                best, span = price, (start, end)
    return order[slice(*span)]
