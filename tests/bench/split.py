"""The best possible split: what a crowd of rows costs at least, if all of them are known beforehand."""

from collections.abc import Sequence
from itertools import accumulate

from app.engine.runtimes.cost import Cost


def best_split(lengths: Sequence[int], cost: Cost, max_tokens: int) -> tuple[list[int], float]:
    """Cut ascending `lengths` into batches so that their summed cost is least.

    The cheapest batches hold neighbours by length, so that dynamic programming over the start of the last
    batch finds them. O(rows · rows of a batch).

    Args:
        max_tokens: padded sub-tokens of a batch at most, unless a single row has more.

    Returns:
        The end of each batch, and the seconds of all.
    """
    count = len(lengths)
    upto = [0, *accumulate(lengths)]
    best = [0.0] + [float("inf")] * count
    start_of = [0] * (count + 1)
    for end in range(1, count + 1):
        longest = lengths[end - 1]
        for start in range(end - 1, -1, -1):
            rows = end - start
            if rows > 1 and rows * longest > max_tokens:
                break
            total = best[start] + cost.of(rows, longest, upto[end] - upto[start])
            if total < best[end]:
                best[end], start_of[end] = total, start
    ends = [count] if count else []
    while ends and start_of[ends[-1]]:
        ends.append(start_of[ends[-1]])
    return ends[::-1], best[count]
