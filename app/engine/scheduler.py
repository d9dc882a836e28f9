"""Scheduler: which windows run together, and when.

There is no timer. While the session is busy the queue fills; when it is free, the scheduler takes
the oldest rows, sorts them by length, splits them into the batches that cost least, and runs the
one that holds the oldest row. The rest keep their place, so that rows which come meanwhile may
still fill their batches.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from app.errors import Busy, InferenceFailed, NerveError, NotReady

_LOOK_AHEAD = 64
"""Rows considered at a time: more would cost time and hardly sort better."""

_FAILURES = 3
"""Batches that fail in a row before the session counts as broken."""


class Row(Protocol):
    """One window that waits to be run."""

    @property
    def length(self) -> int:
        """Sub-tokens, special tokens included."""
        ...

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more."""
        ...

    def done(self, error: NerveError | None) -> None:
        """Called once its batch has run, or failed, and the next may run."""
        ...


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch: `fixed + per_token * rows * longest`."""

    fixed: float = 5e-4
    per_token: float = 4e-5

    def of(self, rows: int, longest: int) -> float:
        return self.fixed + self.per_token * rows * longest


@dataclass(frozen=True)
class BatchReport:
    """One batch as it was run.

    Attributes:
        tokens: sub-tokens in it, padding left out.
        seconds: how long it ran.
        waited: seconds each row waited before.
    """

    rows: int
    longest: int
    tokens: int
    seconds: float
    waited: tuple[float, ...]
    failed: bool


def split_batches(lengths: Sequence[int], cost: Cost, max_tokens: int) -> list[int]:
    """Where to cut ascending `lengths` into batches so that their summed cost is least.

    Returns the end of each batch. No batch exceeds `max_tokens` padded sub-tokens unless a single
    row does. Dynamic programming over the last batch's start, O(rows · rows of a batch).
    """
    count = len(lengths)
    best = [0.0] + [np.inf] * count
    start_of = [0] * (count + 1)
    for end in range(1, count + 1):
        longest = lengths[end - 1]
        for start in range(end - 1, -1, -1):
            rows = end - start
            if rows > 1 and rows * longest > max_tokens:
                break
            total = best[start] + cost.of(rows, longest)
            if total < best[end]:
                best[end], start_of[end] = total, start
    ends = [count]
    while start_of[ends[-1]]:
        ends.append(start_of[ends[-1]])
    return ends[::-1] if count else []


def next_batch(lengths: Sequence[int], cost: Cost, max_tokens: int) -> list[int]:
    """Indices of the rows to run next: those of the cheapest split that go with row 0, the oldest."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    oldest = order.index(0)
    start = 0
    for end in split_batches([lengths[i] for i in order], cost, max_tokens):
        if oldest < end:
            return order[start:end]
        start = end
    return []


class Scheduler(Generic[R]):
    """Runs rows on a thread of its own until `close`.

    Args:
        run: runs a batch and gives each row its result; never called twice at a time.
        cost: the machine's cost of a batch, measured at warm-up.
        max_queue_tokens: sub-tokens that may wait. A request that comes to an empty queue is taken
            whatever its size.
        max_batch_tokens: largest padded batch.
        report: told of every batch.
        begin: called first on its thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[R]], None],
        cost: Cost,
        max_queue_tokens: int,
        max_batch_tokens: int,
        report: Callable[[BatchReport], None],
        name: str = "scheduler",
        begin: Callable[[], None] = lambda: None,
    ):
        self._run: Callable[[Sequence[R]], None] | None = run
        self.cost = cost
        self._max_queue_tokens = max_queue_tokens
        self._max_batch_tokens = max_batch_tokens
        self._report = report
        self._begin = begin
        self._failures = 0
        self._queue: deque[tuple[float, R]] = deque()
        self._tokens = 0
        self._running = False
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        return self._tokens

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._running and not self._queue

    @property
    def failing(self) -> bool:
        """Whether three batches in a row failed; a batch that succeeds later does not undo it."""
        return self._failures >= _FAILURES

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is on the scheduler's own thread, which others wait for."""
        return threading.current_thread() is self._thread

    def submit(self, rows: Sequence[R]) -> None:
        """Queue rows, all or none.

        Raises:
            Busy: the queue has no room for them.
            NotReady: the scheduler was closed or its thread died.
        """
        tokens = sum(row.length for row in rows)
        now = time.perf_counter()
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise NotReady("this model version is closed; send the request again")
            if self._queue and self._tokens + tokens > self._max_queue_tokens:
                raise Busy(
                    f"{self._tokens} sub-tokens wait already and {self._max_queue_tokens} may "
                    "(NERVE_MAX_QUEUE_TOKENS); come again later",
                    retry_after=self._tokens * self.cost.per_token,
                )
            self._queue.extend((now, row) for row in rows)
            self._tokens += tokens
            self._changed.notify()

    def run_if_idle(self, row: R) -> bool:
        """Run one row on the caller's own thread, if nothing runs and nothing waits.

        A request that is alone saves two changes of thread. Returns whether it ran.
        """
        with self._changed:
            if self._closed or self._running or self._queue:
                return False
            self._running = True
        self._execute([(time.perf_counter(), row)])
        return True

    def close(self) -> None:
        """Run what is queued, then end the thread and let go of what ran it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)  # a lone row on its caller's thread
            self._run = None

    def _loop(self) -> None:
        self._begin()
        while batch := self._take():
            self._execute(batch)

    def _execute(self, batch: Sequence[tuple[float, R]]) -> None:
        """Run one batch and report it. A batch that fails fails its own rows only."""
        started = time.perf_counter()
        rows = [row for _, row in batch]
        error: NerveError | None = None
        try:
            assert self._run is not None
            self._run(rows)
        except NerveError as known:
            error = known
        except Exception as unknown:
            error = InferenceFailed(f"a batch failed: {unknown!r}")
        seconds = time.perf_counter() - started
        with self._changed:
            self._running = False
            if self._failures < _FAILURES:
                self._failures = self._failures + 1 if isinstance(error, InferenceFailed) else 0
            self._changed.notify()
        for row in rows:
            row.done(error)
        lengths = [row.length for row in rows]
        waited = tuple(started - since for since, _ in batch)
        self._report(BatchReport(len(rows), max(lengths), sum(lengths), seconds, waited, error is not None))

    def _take(self) -> list[tuple[float, R]]:
        """The next batch; empty when closed and drained."""
        with self._changed:
            ahead = self._oldest()
            while not ahead and not (self._closed and not self._queue):
                self._changed.wait()
                ahead = self._oldest()
            if not ahead:
                return []
            lengths = [row.length for _, row in ahead]
            chosen = next_batch(lengths, self.cost, self._max_batch_tokens)
            left = set(range(len(ahead))).difference(chosen)
            self._queue.extendleft(ahead[i] for i in sorted(left, reverse=True))
            self._tokens -= sum(lengths[i] for i in chosen)
            self._running = True
            return [ahead[i] for i in chosen]

    def _oldest(self) -> list[tuple[float, R]]:
        """Rows from the head of the queue, none while a batch runs; abandoned ones are dropped."""
        ahead: list[tuple[float, R]] = []
        while not self._running and self._queue and len(ahead) < _LOOK_AHEAD:
            since, row = self._queue.popleft()
            if row.abandoned:
                self._tokens -= row.length
            else:
                ahead.append((since, row))
        return ahead
