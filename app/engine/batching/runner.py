"""Scheduler: runner threads that take batches from the backlog, and who may still join it.

There is no timer. While all runners are busy the backlog fills; a runner that is free takes the next
batch. What comes alone therefore runs at once, and what comes in crowds runs in batches.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from app.engine.batching.admission import Admission
from app.engine.batching.cost import Cost, CostMeter, Pace
from app.engine.batching.queue import Flow, Queue, Row, lane_of, overtaking
from app.errors import DeadlineExceeded, InferenceFailed, NerveError, NotReady

log = logging.getLogger("nerve.engine")

_FAILURES = 3
"""Batches that fail in a row before the session counts as broken."""

_USUAL = 128
"""Sub-tokens of a batch, before any was seen."""


@dataclass(frozen=True)
class BatchReport:
    """One batch as it was run.

    Attributes:
        tokens: sub-tokens in it, padding left out.
        seconds: how long the session ran it.
        waited: seconds each row waited before.
        tokenize_seconds, decode_seconds: what its rows took there, together.
    """

    rows: int
    longest: int
    tokens: int
    seconds: float
    waited: tuple[float, ...]
    failed: bool
    tokenize_seconds: float = 0.0
    decode_seconds: float = 0.0


class TimedRow(Row, Protocol):
    """A row that knows what happened to it.

    Attributes:
        since: `time.perf_counter()` when it was queued.
        tokenize_seconds: what its part of the text took to tokenize.
    """

    since: float
    tokenize_seconds: float


T = TypeVar("T", bound=TimedRow)
C = TypeVar("C", bound=TimedRow)


class Work(Protocol[C]):
    """What is done with a batch. It is called on several threads at once, with other rows."""

    def prepare(self) -> Sequence[tuple[Flow, Sequence[C]]]:
        """What was announced, to be queued before the next batch is chosen: together it takes less."""
        ...

    def run(self, rows: Sequence[C], alone: bool) -> None:
        """Run the network, and keep what it gives.

        Args:
            alone: nothing else runs or waits, so that this batch may have the whole machine.
        """
        ...

    def finish(self, rows: Sequence[C], error: NerveError | None) -> None:
        """Answer those that are waited for: with what `run` gave, or with why it gave nothing."""
        ...


class Scheduler(Generic[T]):
    """Runs rows on threads of its own until `close`.

    Args:
        work: what is done with each batch.
        cost: of a batch, measured at warm-up; refined from then on.
        runners: threads, and so batches at a time.
        max_queue_tokens: sub-tokens that may wait; see `Admission`.
        max_batch_tokens: largest padded batch.
        report: told of every batch.
        begin: called first on each thread.
    """

    def __init__(
        self,
        work: Work[T],
        cost: Cost,
        runners: int,
        max_queue_tokens: int,
        max_batch_tokens: int,
        report: Callable[[BatchReport], None],
        name: str = "scheduler",
        begin: Callable[[], None] = lambda: None,
    ):
        self._work: Work[T] | None = work
        self._meter = CostMeter(cost)
        self._pace = Pace(cost.of(1, _USUAL, _USUAL) / _USUAL / runners, runners * max_batch_tokens)
        self._max_batch_tokens = max_batch_tokens
        self._report = report
        self._begin = begin
        self._failures = 0
        self._backlog: Queue[T] = Queue()
        self._admission = Admission(self._backlog, self._pace, max_queue_tokens)
        self._running = 0
        self._announced = False
        self._preparing = 0
        self._lock = threading.RLock()
        self._woken = [threading.Condition(self._lock) for _ in range(runners)]
        self._asleep: list[int] = []  # runners, whoever fell asleep last in the end
        self._closed = False
        self._threads = [
            threading.Thread(target=self._loop, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def cost(self) -> Cost:
        """What a batch costs, as batches now show."""
        return self._meter.cost

    @property
    def waiting_tokens(self) -> int:
        return self._backlog.tokens

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._running or self._backlog or self._announced or self._preparing)

    @property
    def failing(self) -> bool:
        """Whether three batches in a row failed; a batch that succeeds later does not undo it."""
        return self._failures >= _FAILURES

    def admit(self, tokens: int, seconds_left: float | None) -> None:
        """Make room for a request of some `tokens` sub-tokens, which will be queued or withdrawn.

        Args:
            seconds_left: until its deadline, if it has one.

        Raises:
            Busy: the queue has no room, or it would hardly be answered in time.
            NotReady: the scheduler was closed, or a thread of it died.
        """
        with self._lock:
            if self._closed or not self.alive:
                raise NotReady("this model version is closed; send the request again")
            others = overtaking(self.cost, self._max_batch_tokens, lane_of(tokens))
            self._admission.admit(tokens, seconds_left, others)

    def withdraw(self, tokens: int, part: int | None = None) -> None:
        """What was admitted, or a part of it, is queued now, or will never be."""
        with self._lock:
            self._admission.withdraw(tokens, part)

    def submit(self, flow: Flow, rows: Sequence[T]) -> None:
        """Queue rows of a request that was admitted, even while the scheduler closes.

        Raises:
            NotReady: the scheduler has closed, or a thread of it died.
        """
        with self._lock:
            if not self.alive:
                raise NotReady("this model version is closed; send the request again")
            self._add([(flow, rows)])
            self._wake(len(rows))

    def _add(self, queued: Sequence[tuple[Flow, Sequence[T]]]) -> None:
        if queued and not self._running and not self._backlog:
            self._pace.begin(time.perf_counter())
        for flow, rows in queued:
            self._backlog.add(flow, rows)

    def announce(self) -> None:
        """Something admitted waits to be queued by `Work.prepare`, even while the scheduler closes.

        Raises:
            NotReady: the scheduler has closed, or a thread of it died.
        """
        with self._lock:
            if not self.alive:
                raise NotReady("this model version is closed; send the request again")
            self._announced = True
            self._wake(1)

    def cancel(self, flow: Flow) -> None:
        """Forget what of a request has not run, and will be queued of it."""
        with self._lock:
            self._backlog.cancel(flow)

    def close(self) -> None:
        """Run what is queued, then end the threads and let go of what ran it."""
        with self._lock:
            self._closed = True
            self._wake(len(self._threads))
        for thread in self._threads:
            thread.join()
        while self._work and self._backlog:  # a thread died, or it would be empty
            left, dropped = self._backlog.next_batch(self.cost, self._max_batch_tokens)
            self._work.finish([*left, *dropped], NotReady("this model version is closed; send it again"))
        self._work = None

    def _wake(self, runners: int) -> None:
        """Wake so many runners, or all that sleep. Whoever ran last comes first: its processor still knows
        what to do."""
        while runners > 0 and self._asleep:
            self._woken[self._asleep.pop()].notify()
            runners -= 1

    def _loop(self, number: int) -> None:
        self._begin()
        while True:
            self._prepare(number)
            with self._lock:
                batch, dropped = self._backlog.next_batch(
                    self.cost, self._max_batch_tokens, len(self._threads)
                )
                alone = not (self._running or self._backlog or self._announced or self._preparing)
                if batch:
                    self._running += 1
                elif not dropped and self._closed and not self._announced and not self._preparing:
                    return
            if dropped and self._work:
                late = DeadlineExceeded("the request's deadline passed while it waited")
                self._work.finish(dropped, late)
            if batch:
                self._execute(batch, alone)

    def _prepare(self, number: int) -> None:
        """Wait for something to do, and queue what was announced."""
        with self._lock:
            while not (self._backlog or self._announced or (self._closed and not self._preparing)):
                self._asleep.append(number)
                self._woken[number].wait()
            if not self._announced or not self._work:
                return
            self._announced = False
            self._preparing += 1
        queued: Sequence[tuple[Flow, Sequence[T]]] = ()
        try:
            queued = self._work.prepare()
        finally:
            with self._lock:
                self._preparing -= 1
                self._add(queued)
                # This runner takes the next batch itself. Others that close have waited for this.
                rows = sum(len(some) for _, some in queued)
                self._wake(len(self._threads) if self._closed else rows - 1)

    @staticmethod
    def _run(work: Work[T], rows: Sequence[T], alone: bool) -> NerveError | None:
        """Run rows together; what went wrong, if anything did."""
        try:
            work.run(rows, alone)
        except NerveError as known:
            return known
        except BaseException as unknown:  # Rust panics are no Exceptions
            return InferenceFailed(f"a batch failed: {unknown!r}")
        return None

    def _execute(self, batch: Sequence[T], alone: bool) -> None:
        """Run one batch and report it. Of a batch that fails each row is run again by itself, so that only
        those fail that are to blame."""
        work, started = self._work, time.perf_counter()
        assert work
        error = self._run(work, batch, alone)
        outcomes = [(batch, error)]
        if isinstance(error, InferenceFailed) and len(batch) > 1:
            outcomes = [([row], error if row.abandoned else self._run(work, [row], False)) for row in batch]
        ran = time.perf_counter()
        lengths = [row.length for row in batch]
        longest, tokens = max(lengths), sum(lengths)
        with self._lock:
            self._running -= 1
            self._pace.done(tokens, ran)
            if not error and (not alone or len(self._threads) == 1):
                self._meter.observe(len(batch), longest, tokens, ran - started)
            if self._failures < _FAILURES:
                broken = all(isinstance(outcome, InferenceFailed) for _, outcome in outcomes)
                self._failures = self._failures + 1 if broken else 0
        for rows, outcome in outcomes:
            try:
                work.finish(rows, outcome)
            except BaseException as unknown:
                log.exception("the answers to a batch failed")
                work.finish(rows, InferenceFailed(f"the answers to a batch failed: {unknown!r}"))
        try:
            self._report(
                BatchReport(
                    len(batch),
                    longest,
                    tokens,
                    ran - started,
                    tuple(started - row.since for row in batch),
                    error is not None,
                    sum(row.tokenize_seconds for row in batch),
                    time.perf_counter() - ran,
                )
            )
        except Exception:
            log.exception("a batch was run, and its report failed")
