"""Signals lets SIGINT and SIGTERM end a run only at points where nothing is lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from app.bulk.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Makes a signal raise `Stopped`: at once inside `waiting`, else at the next `waiting`."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait that may be interrupted."""
        self._waiting = True
        try:
            if self._number is not None:
                raise Stopped(self._number)
            yield
        finally:
            self._waiting = False

    def _heard(self, number: int, _: FrameType | None) -> None:
        self._number = number
        if self._waiting:
            self._waiting = False
            raise Stopped(number)
