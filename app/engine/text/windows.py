"""Windows: how a text of any length fits a network of fixed length, with nothing truncated."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.text.words import Ints

Logits = npt.NDArray[np.float32]


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
    """Windows of at most `size` sub-tokens over a text of `length`, which overlap by at least `stride`.

    All windows are full, unless the text is shorter than one: the last is moved left, so that its words
    have as much context as others. An empty text has no windows.

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
    """Take a text's logits over from the row of one of its windows.

    Windows may come in any order. Several threads must not stitch one text at a time.

    Args:
        text: the logits so far, shape (decisions, tags), which are filled in place; None where no window of
            the text has been stitched.
        window: where the row lies in the text.
        firsts: the sub-token that each decision of the text is read from, shape (decisions,).
        row: the network's logits, shape (length, tags), special tokens and padding included.
        prefix: special tokens before the window's sub-tokens.

    Returns:
        The text's logits. Those of windows that are still to come are zero.
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
