"""Collation: rows of different lengths become the arrays that a network takes.

Serving, warm-up, evaluation and training all collate here, so that what is trained and measured is what is
served.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.engine.text.tokenizer import Specials
from app.manifest import Feature

Arrays = dict[str, npt.NDArray[np.int64]]


class RowLike(Protocol):
    """What a network is told of one window, special tokens left out; both of shape (sub-tokens,).

    Attributes:
        ids: sub-token ids.
        shapes: the word shape of each sub-token.
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
    """The arrays of a batch, each int64 and of shape (rows, length), padded on the right.

    Args:
        inputs: which feature each array holds, by the array's name.
        specials: the special tokens around each row.
        shape: the number of rows and their length, where the runtime wants more than these rows have. An
            added row attends to one sub-token, as attention to none is not a number.
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
