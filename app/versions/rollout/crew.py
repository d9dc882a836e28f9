"""Crew: a few threads that do slow work for many models, for each model one thing at a time.

All threads here end with the process, so that work that never ends does not keep the process from its end.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("nerve.lifecycle")


def aside(work: Callable[[], T]) -> "Future[T]":
    """Do work on a thread of its own, and return the future of what it returns."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future


class Crew:
    """Does what is given to it on threads that start when they are needed; work that hangs costs one.

    Args:
        name: the start of the threads' names.
        most: the number of threads that there may be.
    """

    def __init__(self, name: str, most: int):
        self._name = name
        self._most = most
        self._waiting: deque[tuple[Hashable, Callable[[], None]]] = deque()
        self._keys: set[Hashable] = set()  # of what waits or is being done
        self._threads = 0
        self._idle = 0
        self._changed = threading.Condition()
        self._closed = False

    def give(self, key: Hashable, work: Callable[[], None]) -> None:
        """Have work done, unless some of this key waits already or is being done."""
        with self._changed:
            if self._closed or key in self._keys:
                return
            self._keys.add(key)
            self._waiting.append((key, work))
            if self._idle >= len(self._waiting):
                self._changed.notify_all()
            elif self._threads < self._most:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._run, name=name, daemon=True).start()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until all is done, `close` is called, or some seconds have passed; say if all is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._keys or self._closed, seconds)
            return not self._keys

    def close(self, seconds: float) -> None:
        """Drop what waits, and end the threads once their work is done; wait for that some seconds."""
        with self._changed:
            self._closed = True
            self._keys -= {key for key, _ in self._waiting}
            self._waiting.clear()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._keys, seconds):
                behind = ", ".join(map(str, self._keys))
                log.error("%s: left behind, for it does not end: %s", self._name, behind)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if not self._waiting:
                    self._threads -= 1
                    return
                key, work = self._waiting.popleft()
            try:
                work()
            except Exception:
                log.exception("%s: %s failed", self._name, key)
            with self._changed:
                self._keys.discard(key)
                self._changed.notify_all()
