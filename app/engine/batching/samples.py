"""Samples are batches for warm-up and for measuring, collated just like the batches of requests."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.engine.batching.collation import collate
from app.engine.runtimes.runtime import Arrays, MakeBatch
from app.engine.text.tokenizer import Specials
from app.manifest import Feature


@dataclass(frozen=True)
class _Row:
    """Holds meaningless sub-tokens; see `collation.RowLike`."""

    ids: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]


def sample_batches(inputs: Mapping[str, Feature], specials: Specials, max_length: int) -> MakeBatch:
    """Return a function that makes batches; it cuts rows to the length that the network takes.

    Args:
        inputs: which feature each array holds, by the array's name.
        specials: the special tokens around each row.
        max_length: the most sub-tokens that a row may have.
    """

    def make_batch(rows: int, length: int, real: int | None = None) -> Arrays:
        length = min(length, max_length)
        own = max(0, (length if real is None else min(real, length)) - specials.count)
        row = _Row(np.full(own, specials.pad_id, np.int64), np.zeros(own, np.int64))
        return collate([row] * rows, inputs, specials, (rows, length))

    return make_batch
