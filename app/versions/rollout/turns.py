"""Turns: let few slow tasks begin at a time, without one that never ends keeping the others from theirs."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets tasks begin one after the other. A task that takes long no longer counts among those that begin.

    Args:
        beginning: how many tasks may be in their first seconds at a time.
        seconds: how long these are.
        most: how many tasks may run at a time, however long they have run.
    """

    def __init__(self, beginning: int, seconds: float, most: int):
        self._beginning = beginning
        self._seconds = seconds
        self._most = most
        self._begun: list[float] = []  # when each task that runs began
        self._changed = threading.Condition()
        self._ended = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it for the block."""
        with self._changed:
            while (wait := self._wait()) and not self._ended:
                self._changed.wait(wait)
            begun = time.monotonic()
            self._begun.append(begun)
        try:
            yield
        finally:
            with self._changed:
                self._begun.remove(begun)
                self._changed.notify_all()

    def end(self) -> None:
        """Let everybody go on at once from now on."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait(self) -> float:
        """Return for how many seconds there is no turn, unless a task ends before; 0 if there is one."""
        new = [age for at in self._begun if (age := time.monotonic() - at) < self._seconds]
        if len(self._begun) >= self._most:
            return self._seconds
        return self._seconds - max(new) if len(new) >= self._beginning else 0.0
