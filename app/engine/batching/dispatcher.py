"""Dispatcher passes rows from the threads that send requests to the runners.

It is a monitor: every method is short, holds its lock, and calls no callback. There is no timer. While all
runners are busy the queue fills; a runner that is free takes the next batch. So a request that comes alone
runs at once, and requests that come together run in batches.

A short text that is its request's only one waits unread until a runner is free, which then reads all such
texts together: that is several times as fast as reading them one by one.
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
from app.engine.text.reader import READ_TOGETHER
from app.errors import Busy, NotReady

CLOSED = "this model version is closed; send the request again"

HUNG = "this model version's session hangs; send the request again, once another version or session serves"

_FAILURES = 3
"""The session counts as broken after this many failed batches in a row, and as hung after as many runs in a
row that had to be stopped."""


class Dispatcher:
    """Holds the rows that wait, and hands out batches of them.

    Args:
        cost: the cost of a batch, measured at warm-up and refined from then on.
        runners: threads that take batches; this many batches run at a time.
        max_queue_tokens: sub-tokens that may wait; see `Admission`.
        max_batch_tokens: the most sub-tokens that a batch may have, padding included.
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
        self._latest = inf  # the latest deadline of what waits, which is dropped then
        self._reading = 0  # runners that read texts
        self._running = 0  # batches in a session
        self._answering = 0  # batches that ran and are not yet answered and reported
        self._failures = 0
        self._stopped = 0  # runs in a row that had to be stopped
        self._hung = False
        self._closed = False
        self._ended = 0  # runners that have ended
        self._lock = threading.Lock()
        # Each runner sleeps by acquiring one of these locks, and is woken by releasing it.
        self._signals = [threading.Lock() for _ in range(runners)]
        for signal in self._signals:
            signal.acquire()
        self._asleep: list[int] = []  # runners that sleep, in the order they fell asleep

    @property
    def cost(self) -> Cost:
        """Return the cost of a batch, as measured so far."""
        return self._meter.cost

    @property
    def waiting_tokens(self) -> int:
        """Count the sub-tokens in the queue."""
        return self._queue.tokens

    @property
    def alive(self) -> bool:
        """Say whether every runner still runs, and no session hangs."""
        return not (self._ended or self._hung)

    @property
    def hung(self) -> bool:
        """Say whether a session hangs; this stays true even if it goes on later."""
        return self._hung

    @property
    def idle(self) -> bool:
        """Say whether no request is unread, in the queue, in a batch or being decoded."""
        return not (self._admission.coming or self._busy or self._answering)

    @property
    def failing(self) -> bool:
        """Say whether three batches in a row failed, or it hangs; this stays true, whatever comes later."""
        return self._failures >= _FAILURES or self._hung

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._queue or self._unread or self._reading)

    # Called by the threads that send requests

    def admit(self, request: Request[Any], least: int = 0) -> None:
        """Reserve room for a request, whose rows `add` will queue.

        Args:
            least: the number of sub-tokens that it has at least.

        Raises:
            TooMuch: the request cannot be done by its deadline even if nothing else waits.
            Busy: the queue has no room, or the request would probably miss its deadline.
            NotReady: the version is closed, a runner died, or the session hangs.
        """
        with self._lock:
            self._admit(request, least)

    def send(self, request: Request[Any], texts: Sequence[str]) -> None:
        """Admit a request of few characters, which the next free runner reads.

        Raises:
            Busy, NotReady: for the same reasons as `admit`.
        """
        with self._lock:
            self._admit(request)
            self._unread.append(Part(request, 0, texts, request.unread))
            self._wake(1)

    def add(self, part: Part, rows: Sequence[Row]) -> None:
        """Queue the rows of a part of a request that was admitted.

        Raises:
            TooMuch: what was read of the request so far cannot be done by its deadline.
            NotReady: a runner died, or the session hangs.
        """
        request = part.request
        with self._lock:
            self._add(part, rows)
            request.read += sum(row.length for row in rows)
            self._admission.check_possible(request.read, request.seconds)
            if self._ended or self._hung:
                raise NotReady(HUNG if self._hung else CLOSED)
            self._wake(len(rows))

    def give_up(self, request: Request[Any]) -> None:
        """Note that an admitted request will not be read."""
        with self._lock:
            self._account(request, request.unread)

    def cancel(self, flow: Flow) -> None:
        """Drop the rows of a request that wait, and those that are still to be queued."""
        with self._lock:
            self._queue.cancel(flow)

    def take_over(self) -> bool:
        """Let the calling thread read and run a request itself, until it calls `hand_back`.

        Returns False, and does nothing, if any other request is on its way, or the last run did not end by
        itself.
        """
        with self._lock:
            if self._closed or self._ended or self._stopped or self._hung or not self.idle:
                return False
            self._reading += 1
            self._rate.begin(time.perf_counter())
            return True

    def start(self) -> None:
        """Note that the thread that has taken over runs a batch."""
        with self._lock:
            self._running += 1

    def hand_back(self) -> None:
        """Note that the thread that had taken over is done."""
        with self._lock:
            self._end_reading()

    # Called by the runners

    def wait(self, runner: int) -> list[Part] | None:
        """Wait for work; return the texts to read before the next batch is chosen.

        Returns None when the version is closed and no work is left.
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
        """Queue the rows that were read, and take the next batch.

        Args:
            read: the parts that `wait` returned, each with its rows.
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
        """Note that a batch has run, whether it came from `next_batch` or after `take_over`."""
        with self._lock:
            self._running -= 1
            self._answering += 1
            self._rate.done(ran.tokens, ran.ended)
            # The cost describes batches that share the machine's threads; a single batch had them all.
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

    # Called by the watchdog

    @property
    def suspect(self) -> bool:
        """Say whether the last run had to be stopped."""
        return self._stopped > 0

    def trust(self) -> None:
        """Note that a run ended by itself."""
        with self._lock:
            self._stopped = 0

    def stopped(self) -> bool:
        """Note that a run had to be stopped; return whether the session counts as hung by that."""
        with self._lock:
            self._stopped += 1
            found = self._stopped >= _FAILURES and not self._hung
            self._hung |= found
            return found

    def hang(self) -> None:
        """Note that a run goes on although it was told to stop."""
        with self._lock:
            self._hung = True

    # Called to close the network

    def close(self) -> None:
        """Admit no more requests. The runners end once they have run what waits."""
        with self._lock:
            self._closed = True
            self._wake(self._runners)

    def left_over(self) -> list[Request[Any]]:
        """Drop and return the requests that still wait although no runner will take them."""
        with self._lock:
            left = [part.request for part in self._unread]
            self._unread.clear()
            while self._queue:
                rows, late = self._queue.next_batch(self._meter.cost, self._max_batch_tokens, 1, 0.0)
                left += [row.text.request for row in (*rows, *late)]
            return left

    # Called with the lock held

    def _admit(self, request: Request[Any], least: int = 0) -> None:
        if self._closed or self._ended or self._hung:
            raise NotReady(HUNG if self._hung else CLOSED)
        now = time.monotonic()
        request.seconds = request.deadline - now
        self._admission.check_possible(least, request.seconds)
        empty = not (self._queue or self._admission.coming)
        try:
            self._admission.admit(request.unread, request.seconds)
        except Busy as busy:
            busy.retry_after = max(0.0, min(busy.retry_after, self._latest - now))
            raise
        self._latest = request.deadline if empty else max(self._latest, request.deadline)

    def _add(self, part: Part, rows: Sequence[Row]) -> None:
        self._account(part.request, min(part.tokens, part.request.unread))
        if rows:
            if not self._running and not self._queue:
                self._rate.begin(time.perf_counter())
            self._queue.add(part.request.flow, rows)

    def _account(self, request: Request[Any], tokens: int) -> None:
        """Note that `tokens` admitted sub-tokens of a request are read now, or never will be."""
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
            self._wake(self._runners)  # they end only when no text is being read

    def _wake(self, runners: int) -> None:
        """Wake up to `runners` runners, the last to fall asleep first: its caches are the warmest."""
        for _ in range(min(runners, len(self._asleep))):  # none if `runners` is negative
            self._signals[self._asleep.pop()].release()
