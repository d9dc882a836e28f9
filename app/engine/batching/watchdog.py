"""Watchdog: notices batches that do not end, stops them, and gives up a session that cannot be stopped.

A run that takes far longer than such a batch should is told to stop, which runtimes do between two
operators: it is then a batch that failed. The third run in a row that had to be stopped, or one that goes
on although it was told to stop, shows that the session hangs. Whoever waits for it is told so at once.

A run on a thread that others wait for, such as the event loop's, keeps all of them from any answer. If it
cannot be stopped, the process is ended, so that whoever supervises it starts another.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from weakref import WeakSet

from app.engine.batching.dispatcher import HUNG, Dispatcher
from app.engine.batching.requests import Row
from app.errors import InferenceFailed, NotReady

log = logging.getLogger("nerve.engine")

Stop = Callable[[int], None]
"""Tells the run of a thread, given its id, to stop. It returns at once."""

PATIENCE = 10.0
"""Seconds that any batch may take, by default."""

_SLACK = 20.0
"""A batch may take this many times what it should, if that is longer: a machine may be busy with others."""

_LOST = 1.5
"""A run that goes on for this many times its limit does not stop any more."""

_FATAL = 3.0
"""A run on a thread that others wait for ends the process after this many times its limit."""

_EXIT_CODE = 70
"""The exit code of a process that is ended: an internal software error, in `sysexits.h`."""

_TICK = 0.2
"""Seconds between two looks at what runs."""


class Run:
    """Holds one run of a session.

    Attributes:
        rows: the rows of the batch.
        thread: the id of the thread that runs it.
        held: whether others wait for that thread.
        age: the seconds that it was seen to run.
        stopped: whether it was told to stop.
        lost: whether it went on nevertheless.
    """

    __slots__ = ("age", "held", "lost", "rows", "stopped", "thread")

    def __init__(self, rows: Sequence[Row], thread: int, held: bool):
        self.rows = rows
        self.thread = thread
        self.held = held
        self.age = 0.0
        self.stopped = False
        self.lost = False


class Watchdog:
    """Watches the runs of one network's sessions.

    Args:
        dispatcher: learns which runs were stopped, and whether the session hangs.
        stop: tells a run to stop.
        patience: seconds that any batch may take.
        name: the network, for the log.
    """

    def __init__(
        self, dispatcher: Dispatcher, stop: Stop, patience: float = PATIENCE, name: str = "a network"
    ):
        self._dispatcher = dispatcher
        self._stop = stop
        self._patience = patience
        self._name = name
        self._runs: dict[int, Run] = {}
        _ticker.add(self)

    def begin(self, rows: Sequence[Row], held: bool) -> None:
        """Note that the calling thread begins to run rows.

        Args:
            held: whether others wait for this thread.
        """
        thread = threading.get_ident()
        self._runs[thread] = Run(rows, thread, held)

    def end(self) -> None:
        """Note that the calling thread's run has ended."""
        run = self._runs.pop(threading.get_ident())
        if self._dispatcher.suspect and not run.stopped:
            self._dispatcher.trust()

    def look(self, seconds: float) -> None:
        """Let the present runs age by some seconds, and deal with those that are too old."""
        for run in list(self._runs.values()):
            run.age += seconds
            if run.age >= self._patience and run.age >= (limit := self._limit(run)):
                self._deal_with(run, limit)

    def _limit(self, run: Run) -> float:
        lengths = [row.length for row in run.rows]
        return max(
            self._patience, _SLACK * self._dispatcher.cost.of(len(lengths), max(lengths), sum(lengths))
        )

    def _deal_with(self, run: Run, limit: float) -> None:
        what = f"{self._name}: a batch of {len(run.rows)} rows has run for {run.age:.1f} s"
        if not run.stopped:
            run.stopped = True
            log.error("%s and is told to stop", what)
            self._stop(run.thread)
            if self._dispatcher.stopped():
                self._give_up("three runs in a row had to be stopped")
        elif run.age >= _LOST * limit and not run.lost:
            run.lost = True
            self._dispatcher.hang()
            self._give_up(f"{what} and does not stop")
            for row in run.rows:
                row.text.request.fail(InferenceFailed("the session hangs on the batch that held a text"))
        if run.held and run.age >= _FATAL * limit:
            log.critical("%s on the thread that takes requests, so this process ends", what)
            # Nothing else can be done: that thread answers nobody, and no signal ends it.
            os._exit(_EXIT_CODE)

    def _give_up(self, reason: str) -> None:
        log.error("%s: its session hangs and is given up: %s", self._name, reason)
        for request in self._dispatcher.left_over():
            request.fail(NotReady(HUNG))


class _Ticker:
    """Lets all watchdogs of this process look, from one thread, which starts with the first of them."""

    def __init__(self) -> None:
        self._watchdogs: WeakSet[Watchdog] = WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, watchdog: Watchdog) -> None:
        with self._lock:
            self._watchdogs.add(watchdog)
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick, name="watchdog", daemon=True)
                self._thread.start()

    def _tick(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_TICK)
            now = time.monotonic()
            # A process that was stopped as a whole, or swapped out, must not take itself for hung.
            seconds, before = min(now - before, 2 * _TICK), now
            with self._lock:
                watchdogs = list(self._watchdogs)
            for watchdog in watchdogs:
                try:
                    watchdog.look(seconds)
                except Exception:
                    log.exception("a network could not be watched")
            del watchdogs  # so that none is kept alive by this thread


_ticker = _Ticker()
