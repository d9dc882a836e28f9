"""Shapes: how large a batch is made for the device that runs it. Nothing here runs anything.

A CPU takes each batch as it is. A GPU multiplies matrices in tiles, and wastes what a length leaves
of the last one; CUDA graphs are recorded for one shape each, so few shapes may be used.
"""

from collections.abc import Callable

from app.errors import InferenceFailed

MULTIPLE = 8
"""Lengths on CUDA are multiples of this: half-precision matrix units work on 8 columns at a time."""

GRAPH_TOKENS = 2_048
"""A batch of at most so many sub-tokens, padding included, may be run as a CUDA graph. What a graph
saves, the launch of each operator, counts for little in larger ones."""

_GROWTH = 1.05
_FLAT_STEPS = 2


def gpu_shape(
    rows: int, longest: int, max_length: int | None = None, graphs: bool = False
) -> tuple[int, int]:
    """The rows and length of a batch on CUDA whose longest row has `longest` sub-tokens.

    Args:
        max_length: sub-tokens of a row that the network takes at most; None knows no end.
        graphs: small batches get the rows of `graph_shape`.
    """
    length = padded_length(longest, max_length)
    return (graph_shape(rows, length) if graphs else None) or (rows, length)


def padded_length(longest: int, max_length: int | None = None) -> int:
    """`longest` rounded up to a multiple of `MULTIPLE`, but not beyond `max_length`."""
    rounded = -(-longest // MULTIPLE) * MULTIPLE
    return rounded if max_length is None else max(longest, min(rounded, max_length))


def graph_shape(rows: int, length: int) -> tuple[int, int] | None:
    """The shape whose CUDA graph runs such a batch: rows rounded up to a power of two.

    Returns None where the batch is too large for one.
    """
    rounded = 1 << (rows - 1).bit_length()
    return (rounded, length) if rounded * length <= GRAPH_TOKENS else None


def find_token_budget(time_of: Callable[[int, int], float], length: int, limit: int) -> int:
    """The largest batch that is worth making, in sub-tokens, padding included.

    Doubles the rows until twice in a row the sub-tokens a second grow by less than 5 %, memory ends,
    or the limit is reached; returns the last size that still gained. A single flat step is passed over,
    as times are uneven.

    Args:
        time_of: seconds that a batch of (rows, length) takes, the median of some runs; raises
            InferenceFailed where memory ends. It should run as many batches at once as will be run.
        length: sub-tokens of a row. The longest that the network takes needs most memory, so that no
            other batch of the budget needs more.
        limit: sub-tokens that are never exceeded, but by a single row.

    Raises:
        InferenceFailed: not even one row can be run.
    """
    budget, best = length, length / time_of(1, length)
    rows, flat = 2, 0
    while rows * length <= limit and flat < _FLAT_STEPS:
        try:
            rate = rows * length / time_of(rows, length)
        except InferenceFailed:
            break
        if rate >= best * _GROWTH:
            budget, best, flat = rows * length, rate, 0
        else:
            flat += 1
        rows *= 2
    return budget
