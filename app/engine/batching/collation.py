"""Collation pads rows of different lengths into the arrays that a network takes.

Serving, warm-up, evaluation and training all use it, so that they all run the same arrays.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.engine.text.tokenizer import Specials
from app.manifest import Feature

Arrays = dict[str, npt.NDArray[np.int64]]


class RowLike(Protocol):
    """Holds the inputs of one window, without special tokens.

    Attributes:
        ids: sub-token ids, shape (sub-tokens,).
        shapes: the word shape of each sub-token, shape (sub-tokens,).
    """

    @property
    def ids(self) -> npt.NDArray[np.int64]: ...

    @property
    def shapes(self) -> npt.NDArray[np.int64]: ...


def collate(
    rows: Sequence[RowLike],
    inputs: Mapping[str, Feature],
    specials: Specials,
    shape: tuple[int, int] | None = None,
) -> Arrays:
    """Return the arrays of a batch by name, each int64, of shape (rows, length), and padded on the right.

    Args:
        inputs: which feature each array holds, by the array's name.
        specials: the special tokens around each row.
        shape: (rows, length) if the runtime wants more than these rows have. An added row has a mask of
            one sub-token, because attention over no sub-token gives NaN.
    """
    lengths = [len(row.ids) + specials.count for row in rows]
    count, length = shape or (len(rows), max(lengths))
    real = np.arange(length) < np.array(lengths + [0] * (count - len(rows)))[:, None]
    prefix = np.array(specials.prefix, np.int64)
    suffix = np.array(specials.suffix, np.int64)
    arrays: dict[Any, npt.NDArray[np.int64]] = {}
    for feature in inputs.values():
        if feature == "ids":
            arrays[feature] = np.full(real.shape, specials.pad_id, np.int64)
            parts = [part for row in rows for part in (prefix, row.ids, suffix)]
            arrays[feature][real] = np.concatenate(parts)
        elif feature == "word_shape":
            arrays[feature] = np.zeros(real.shape, np.int64)
            before, behind = np.zeros_like(prefix), np.zeros_like(suffix)
            parts = [part for row in rows for part in (before, row.shapes, behind)]
            arrays[feature][real] = np.concatenate(parts)
        elif feature == "mask":
            arrays[feature] = real.astype(np.int64)
            arrays[feature][len(rows) :, 0] = 1
        else:
            arrays[feature] = np.zeros(real.shape, np.int64)
    return {name: arrays[feature] for name, feature in inputs.items()}
