"""Report: what is told of every batch."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchReport:
    """One batch as it was run.

    Attributes:
        tokens: sub-tokens in it, padding left out.
        seconds: how long the session ran it.
        waited: seconds that each row waited before.
        tokenize_seconds: what its rows took to tokenize, together.
        decode_seconds: what its rows took to decode, together.
    """

    rows: int
    longest: int
    tokens: int
    seconds: float
    waited: tuple[float, ...]
    failed: bool
    tokenize_seconds: float = 0.0
    decode_seconds: float = 0.0


Report = Callable[[BatchReport], None]
"""Is told of every batch, on the thread that ran it."""


def ignore(_: BatchReport) -> None:
    """A report that nobody reads."""
