"""Report describes a batch that was run, for the metrics."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchReport:
    """Describes one batch that was run.

    Attributes:
        longest: sub-tokens of its longest row, special tokens included.
        tokens: sub-tokens of all rows, padding left out.
        seconds: how long the session ran it.
        waited: seconds that each row waited before its batch ran.
        tokenize_seconds: seconds that tokenizing took for all rows together.
        decode_seconds: seconds that decoding and answering took for all rows together.
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
"""Takes the report of every batch; it is called on the thread that ran the batch."""


def ignore(_: BatchReport) -> None:
    """Do nothing with a report."""
