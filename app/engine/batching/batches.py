"""Batches are described by these values, which the dispatcher and the runners exchange."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.engine.batching.requests import Request, Row


class Batch(NamedTuple):
    """Tells a runner what to run next.

    Attributes:
        rows: the rows to run together; empty if none wait.
        late: one row of each request that was dropped because its deadline had passed.
        single: whether nothing else runs or waits, so that the batch may use the whole machine.
    """

    rows: list[Row]
    late: list[Row]
    single: bool


class Part(NamedTuple):
    """Holds consecutive texts of a request.

    Attributes:
        first: the place of the first text in the request.
        tokens: the expected number of sub-tokens of the texts.
    """

    request: Request[Any]
    first: int
    texts: Sequence[str]
    tokens: int


class Ran(NamedTuple):
    """Describes a batch that a session has run.

    Attributes:
        longest: sub-tokens of its longest row, special tokens included.
        tokens: sub-tokens of all rows, padding left out.
        single: whether it had the whole machine.
        started, ended: seconds on the clock of `time.perf_counter()`.
        failed: whether at least one row failed.
        broken: whether every row failed in the session.
    """

    rows: int
    longest: int
    tokens: int
    single: bool
    started: float
    ended: float
    failed: bool
    broken: bool
