"""Choice selects which of the waiting rows run together.

The row whose turn it is always runs. It is joined by those of the rows after it that give the lowest cost
a sub-token. The choice depends on nothing but lengths and costs.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import inf

from app.engine.runtimes.cost import Cost

_LOOK_AHEAD, _PACKED_AHEAD = 10, 1.5
"""A batch is chosen among the rows of this many full batches; more would take time and hardly save padding.
The second number holds where padding is free: there is less to gain, and overtaken rows wait less."""

_OVERTAKING, _SHORT_OVERTAKING = 2, 1
"""A row may be overtaken by this many times `look_ahead` sub-tokens of its size class. The second number
holds for short requests where padding is free. The limit protects rows of rare lengths, which would
otherwise wait until they are the oldest."""


def look_ahead(cost: Cost, max_tokens: int) -> int:
    """Return how many sub-tokens the rows have among which a batch is chosen."""
    batches = _PACKED_AHEAD + (_LOOK_AHEAD - _PACKED_AHEAD) * cost.padding
    return int(batches * max_tokens) + 1


def overtaking(cost: Cost, max_tokens: int, size_class: int) -> int:
    """Return how many sub-tokens may arrive after a row of their size class and run before it."""
    packed = _OVERTAKING if size_class else _SHORT_OVERTAKING
    looks = packed + (_OVERTAKING - packed) * cost.padding
    return int(looks * look_ahead(cost, max_tokens))


def choose_batch(lengths: Sequence[int], cost: Cost, max_tokens: int, most: float = inf) -> list[int]:
    """Return the places of the rows to run: row 0, and the rows that give the lowest cost a sub-token.

    The rows are neighbours by length. Among many rows the search skips some candidates, to stay fast.

    Args:
        lengths: sub-tokens of each row, special tokens included.
        max_tokens: the most sub-tokens that a batch of several rows may have, padding included.
        most: the largest size, as `Cost.size` defines it, that a batch of several rows may have.
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
