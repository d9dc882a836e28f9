"""Runtime: what the engine knows of whatever runs a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Session(Protocol):
    """A network, opened: named arrays of shape (rows, length) in, logits out."""

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """The rows and length that a batch of `rows`, the longest of `longest` sub-tokens, is made with."""
        ...

    def run(self, batch: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        """Logits of shape (rows, length, tags). Several threads may call it at once."""
        ...


@dataclass(frozen=True)
class Running:
    """A network, opened, and how it runs here.

    Attributes:
        session: runs `runs` batches at a time.
        single: runs a batch that has the machine to itself; it may be `session`.
        runs: batches at a time, each on a thread of its own.
        provider: such as `CPUExecutionProvider`.
        threads: of all runs together.
        max_batch_tokens: sub-tokens of a batch at most, padding included, unless one row has more.
    """

    session: Session
    single: Session
    runs: int
    provider: str
    threads: int
    max_batch_tokens: int
