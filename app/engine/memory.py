"""Memory that was freed goes back to the operating system here."""

import ctypes
import threading
from collections.abc import Callable


def give_memory_back() -> None:
    """Return freed memory to the operating system.

    Otherwise glibc keeps it, and a process that loads and closes versions of some ten megabytes grows by
    as much with each.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


class Tidying:
    """Gives memory back some seconds after large work, when its answer is most likely sent.

    Args:
        idle: says whether nothing runs.
        seconds: how long it waits.
    """

    def __init__(self, idle: Callable[[], bool], seconds: float = 2.0):
        self._idle = idle
        self._seconds = seconds
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def later(self) -> None:
        """Give memory back after a while; if something runs then, try again."""
        with self._lock:
            if self._timer or self._closed:
                return
            self._timer = threading.Timer(self._seconds, self._due)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Give nothing back any more."""
        with self._lock:
            self._closed = True
            if self._timer:
                self._timer.cancel()

    def _due(self) -> None:
        with self._lock:
            self._timer = None
        if self._idle():
            give_memory_back()
        else:
            self.later()
