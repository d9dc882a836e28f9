"""Batches: the values that the dispatcher and the runners exchange."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.engine.batching.requests import Request, Row


class Batch(NamedTuple):
    """What a runner does next.

    Attributes:
        rows: run together; there are none where nothing waits.
        late: a row of each request that was met after its deadline, and dropped.
        single: whether nothing else runs or waits, so that the batch may have the whole machine.
    """

    rows: list[Row]
    late: list[Row]
    single: bool


class Part(NamedTuple):
    """Some texts of a request.

    Attributes:
        first: the number of the first of them in the request.
        tokens: sub-tokens that they are expected to have.
    """

    request: Request[Any]
    first: int
    texts: Sequence[str]
    tokens: int


class Ran(NamedTuple):
    """A batch that has left the session.

    Attributes:
        tokens: sub-tokens in it, padding left out.
        single: whether it had the whole machine.
        started, ended: on the clock of `time.perf_counter()`.
        failed: whether the batch did, be it for one row only.
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
