"""Dispatcher: what waits and what runs, between those who send and the runners.

It is a monitor: every method is short, holds its lock, and calls nobody back. There is no timer. While all
runners are busy the queue fills; a runner that is free takes the next batch. What comes alone therefore
runs at once, and what comes in crowds runs in batches.

Single short texts wait unread until a runner takes its next batch, which reads all of them together: that
takes a fraction of what each would take by itself.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any

from app.engine.batching.admission import Admission
from app.engine.batching.batches import Batch, Part, Ran
from app.engine.batching.choice import overtaking
from app.engine.batching.cost import CostMeter
from app.engine.batching.queue import Queue
from app.engine.batching.rate import Rate
from app.engine.batching.requests import Request, Row
from app.engine.batching.size_classes import Flow
from app.engine.runtimes.cost import Cost
from app.errors import NotReady

CLOSED = "this model version is closed; send the request again"

_FAILURES = 3
"""Batches that fail in a row before the session counts as broken."""

READ_TOGETHER = 32
"""Texts that are read at a time: more would keep the first of them waiting, and gain little."""


class Dispatcher:
    """What waits and what runs.

    Args:
        cost: of a batch, measured at warm-up; refined from then on.
        runners: threads that take batches, and so batches at a time.
        max_queue_tokens: sub-tokens that may wait; see `Admission`.
        max_batch_tokens: sub-tokens of a batch at most, padding included.
    """

    def __init__(self, cost: Cost, runners: int, max_queue_tokens: int, max_batch_tokens: int):
        self._meter = meter = CostMeter(cost)
        self._runners = runners
        self._max_batch_tokens = max_batch_tokens
        self._rate = Rate(cost.per_token / runners, runners * max_batch_tokens)
        self._queue: Queue[Row] = Queue()
        self._unread: deque[Part] = deque()
        self._admission = Admission(
            self._queue,
            self._rate,
            max_queue_tokens,
            lambda size_class: overtaking(meter.cost, max_batch_tokens, size_class),
        )
        self._reading = 0  # runners that read texts
        self._running = 0  # batches in a session
        self._answering = 0  # batches that ran and are not answered and reported yet
        self._failures = 0
        self._closed = False
        self._ended = 0  # runners that have
        self._lock = threading.Lock()
        # Each runner's signal is held, and released to wake it.
        self._signals = [threading.Lock() for _ in range(runners)]
        for signal in self._signals:
            signal.acquire()
        self._asleep: list[int] = []  # runners, whoever fell asleep last in the end

    @property
    def cost(self) -> Cost:
        """What a batch costs, as batches now show."""
        return self._meter.cost

    @property
    def waiting_tokens(self) -> int:
        """Sub-tokens in the queue."""
        return self._queue.tokens

    @property
    def alive(self) -> bool:
        """Whether every runner still runs."""
        return not self._ended

    @property
    def idle(self) -> bool:
        """Whether no request is on its way, be it unread, in the queue, in a batch or being decoded."""
        return not (self._admission.coming or self._busy or self._answering)

    @property
    def failing(self) -> bool:
        """Whether three batches in a row failed; a batch that succeeds later does not undo it."""
        return self._failures >= _FAILURES

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._queue or self._unread or self._reading)

    # Of those who send

    def admit(self, request: Request[Any]) -> None:
        """Make room for a request, whose rows `add` will queue.

        Raises:
            Busy: the queue has no room, or the request would hardly be answered in time.
            NotReady: the version is closed, or a runner died.
        """
        with self._lock:
            self._admit(request)

    def send(self, request: Request[Any], texts: Sequence[str]) -> None:
        """Take a request of few characters, which the next runner reads.

        Raises:
            Busy, NotReady: as `admit` does.
        """
        with self._lock:
            self._admit(request)
            self._unread.append(Part(request, 0, texts, request.unread))
            self._wake(1)

    def add(self, part: Part, rows: Sequence[Row]) -> None:
        """Queue the rows of a part of a request that was admitted.

        Raises:
            NotReady: a runner died.
        """
        with self._lock:
            self._add(part, rows)
            if self._ended:
                raise NotReady(CLOSED)
            self._wake(len(rows))

    def give_up(self, request: Request[Any]) -> None:
        """Note that a request that was admitted will not be read."""
        with self._lock:
            self._account(request, request.unread)

    def cancel(self, flow: Flow) -> None:
        """Drop what of a request waits, and what will still be queued of it."""
        with self._lock:
            self._queue.cancel(flow)

    def take_over(self) -> bool:
        """Let the caller read and run a request itself, which counts as being read until `hand_back`.

        Returns False unless nothing at all is on its way.
        """
        with self._lock:
            if self._closed or self._ended or not self.idle:
                return False
            self._reading += 1
            self._rate.begin(time.perf_counter())
            return True

    def start(self) -> None:
        """Note that the caller, who has taken over, runs a batch."""
        with self._lock:
            self._running += 1

    def hand_back(self) -> None:
        """Note that the caller, who had taken over, is done."""
        with self._lock:
            self._end_reading()

    # Of the runners

    def wait(self, runner: int) -> list[Part] | None:
        """Wait for something to do, and take what is to be read before the next batch is chosen.

        Returns None when the version is closed and nothing is left to do.
        """
        while True:
            with self._lock:
                if self._unread or self._queue:
                    return self._take_unread()
                if self._closed and not self._reading:
                    return None
                self._asleep.append(runner)
            self._signals[runner].acquire()

    def next_batch(self, read: Sequence[tuple[Part, Sequence[Row]]] = ()) -> Batch:
        """Queue what was read, and take the next batch.

        Args:
            read: the parts that `wait` gave, and their rows.
        """
        with self._lock:
            if read:
                for part, rows in read:
                    self._add(part, rows)
                self._end_reading()
                self._wake(sum(len(rows) for _, rows in read) - 1)  # this runner takes a batch itself
            rows, late = self._queue.next_batch(
                self._meter.cost, self._max_batch_tokens, self._runners, time.monotonic()
            )
            single = not self._busy
            if rows:
                self._running += 1
            return Batch(rows, late, single)

    def ran(self, ran: Ran) -> None:
        """Note that a batch has left the session, whether it was taken here or by `take_over`."""
        with self._lock:
            self._running -= 1
            self._answering += 1
            self._rate.done(ran.tokens, ran.ended)
            # A batch that had all threads says nothing of those that share them.
            if not ran.failed and (not ran.single or self._runners == 1):
                self._meter.observe(ran.rows, ran.longest, ran.tokens, ran.ended - ran.started)
            if not self.failing:
                self._failures = self._failures + 1 if ran.broken else 0

    def answered(self) -> None:
        """Note that a batch that ran is answered and reported."""
        with self._lock:
            self._answering -= 1

    def ended(self) -> None:
        """Note that a runner ends."""
        with self._lock:
            self._ended += 1

    # Of who closes it

    def close(self) -> None:
        """Take nothing more. The runners end when they have run what waits."""
        with self._lock:
            self._closed = True
            self._wake(self._runners)

    def left_over(self) -> list[Request[Any]]:
        """The requests that still wait when all runners have ended, because some died; they are dropped."""
        with self._lock:
            left = [part.request for part in self._unread]
            self._unread.clear()
            while self._queue:
                rows, late = self._queue.next_batch(self._meter.cost, self._max_batch_tokens, 1, 0.0)
                left += [row.text.request for row in (*rows, *late)]
            return left

    # With the lock held

    def _admit(self, request: Request[Any]) -> None:
        if self._closed or self._ended:
            raise NotReady(CLOSED)
        left = request.deadline if request.deadline == inf else request.deadline - time.monotonic()
        self._admission.admit(request.unread, left)

    def _add(self, part: Part, rows: Sequence[Row]) -> None:
        self._account(part.request, min(part.tokens, part.request.unread))
        if rows:
            if not self._running and not self._queue:
                self._rate.begin(time.perf_counter())
            self._queue.add(part.request.flow, rows)

    def _account(self, request: Request[Any], tokens: int) -> None:
        """So many sub-tokens of what was admitted of a request are read now, or never will be."""
        request.unread -= tokens
        self._admission.queued(request.flow.size_class, tokens)

    def _take_unread(self) -> list[Part]:
        parts = [self._unread.popleft() for _ in range(min(READ_TOGETHER, len(self._unread)))]
        if parts:
            self._reading += 1
            if self._unread:
                self._wake(1)
        return parts

    def _end_reading(self) -> None:
        self._reading -= 1
        if self._closed:
            self._wake(self._runners)  # they have waited for this

    def _wake(self, runners: int) -> None:
        """Wake so many runners, or all that sleep. Whoever ran last comes first: its processor still knows
        what to do."""
        for _ in range(min(runners, len(self._asleep))):  # none where `runners` is negative
            self._signals[self._asleep.pop()].release()
