"""Windows let a network of fixed length read a text of any length, with nothing truncated."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.text.words import Ints

Logits = npt.NDArray[np.float32]


class Window(NamedTuple):
    """Runs the sub-tokens `start:end` of a text in one row, and keeps the logits of `keep_from:keep_to`.

    The kept parts of a text's windows follow one another without gap or overlap: each sub-token is
    read from the window in which it is farthest from an edge.
    """

    start: int
    end: int
    keep_from: int
    keep_to: int


def cut_windows(length: int, size: int, stride: int) -> list[Window]:
    """Cut a text of `length` sub-tokens into windows of at most `size` that overlap by at least `stride`.

    A text that is longer than a window has only full ones: the last is moved left, so that its words have
    as much context as others. An empty text has no windows.

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


def stitch(text: Logits | None, window: Window, firsts: Ints, row: Logits, prefix: int) -> Logits:
    """Add the logits of one window's row to its text's logits, and return these.

    Windows may come in any order. Only one thread at a time may stitch a text.

    Args:
        text: logits of the text so far, shape (decisions, tags), filled in place, with zeros for windows
            that are not stitched yet; None for the text's first window.
        window: place of the row in the text.
        firsts: first sub-token of each decision of the text, shape (decisions,).
        row: logits from the network, shape (length, tags), special tokens and padding included.
        prefix: number of special tokens before the window's sub-tokens.
    """
    shift = prefix - window.start
    if text is None and window.keep_from == 0 and (not len(firsts) or firsts[-1] < window.keep_to):
        taken: Logits = row[firsts + shift]  # it is the text's only window, or the only one with decisions
        return taken
    if text is None:
        text = np.zeros((len(firsts), row.shape[-1]), np.float32)
    low, high = np.searchsorted(firsts, (window.keep_from, window.keep_to))
    text[low:high] = row[firsts[low:high] + shift]
    return text
