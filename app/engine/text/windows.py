"""Windows: how a text of any length fits a network of fixed length, with nothing truncated."""

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """Sub-tokens `start:end` of a text are run together; of them `keep_from:keep_to` are kept.

    The kept parts of a text's windows follow one another without gap or overlap: each sub-token is
    read from the window in which it stands most central.
    """

    start: int
    end: int
    keep_from: int
    keep_to: int


def cut_windows(length: int, size: int, stride: int) -> list[Window]:
    """Windows of at most `size` sub-tokens over a text of `length`, overlapping by at least `stride`.

    All are full unless the text is shorter than one window: the last is moved left, so that its
    words have as much context as others. An empty text has no windows.

    Raises:
        ValueError: `stride` is not below `size`.
    """
    if stride >= size:
        raise ValueError(f"stride {stride} must be below the window's {size} sub-tokens")
    if length <= size:
        return [Window(0, length, 0, length)] if length else []
    starts = [*range(0, length - size, size - stride), length - size]
    edges = [
        0,
        *((b + a + size) // 2 for a, b in pairwise(starts)),
        length,
    ]
    return [
        Window(start, start + size, keep_from, keep_to)
        for start, (keep_from, keep_to) in zip(starts, pairwise(edges), strict=True)
    ]
