"""Connections are counted and limited in time, so that none can keep what others need."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from app.metrics import Metrics
from app.server.refusals import Refused

log = logging.getLogger("nerve")

_LINGERING = 32
"""Connections beyond the limit that are kept until their callers have read why they were refused."""


@dataclass(frozen=True)
class Limits:
    """Holds what a connection may take.

    Attributes:
        head_bytes: the request line and the headers; also trailers, and what frames two pieces of a body.
        target_bytes: the request target, which is the path and the query.
        pipelined: requests that are sent before the answers to earlier ones.
        head_seconds: time from a connection's start, or from a head's first byte, to the head's end.
        body_seconds: time in which `least_bytes` of a body must come, if not all of it.
        answer_seconds: time in which `least_bytes` of an answer must be taken, if not all of it.
        exchange_seconds: time in which a caller that sends and reads at once must do either.
        linger_seconds: time for a caller to read the last answer, and, once the server ends, for a request
            that is on its way.
        every: seconds between two checks.
    """

    head_bytes: int = 65_536
    target_bytes: int = 8_192
    pipelined: int = 100
    head_seconds: float = 10
    body_seconds: float = 30
    answer_seconds: float = 30
    exchange_seconds: float = 300
    linger_seconds: float = 2
    least_bytes: int = 16_384
    every: float = 0.5


class Connection(Protocol):
    """What is asked of a connection."""

    def check(self) -> None:
        """End the connection if it was too slow; called every `Limits.every` seconds."""

    def make_room(self) -> None:
        """End the connection at once; no request of it runs."""


class Connections:
    """Holds the open connections of one process.

    Args:
        most: how many may be open.

    Attributes:
        waiting: those of which no request runs; the first has waited longest.
        metrics: where refusals are counted.
    """

    def __init__(self, most: int, limits: Limits | None = None, metrics: Metrics | None = None):
        self.limits = limits or Limits()
        self.metrics = metrics
        self.waiting: OrderedDict[Connection, None] = OrderedDict()
        self._most = most
        self._open: set[Connection] = set()

    def add(self, connection: Connection) -> Refused | None:
        """Add a new connection. If there are too many, one that waits for a request makes room.

        Returns:
            Why the new connection must be refused, if it must.
        """
        full = len(self._open) >= self._most
        if full and self.waiting:
            self.waiting.popitem(last=False)[0].make_room()
            full = False
        self._open.add(connection)
        if not full:
            self.waiting[connection] = None
            return None
        return Refused(
            503,
            "too_many_connections",
            f"{self._most} connections are open, and requests run on all of them (NERVE_MAX_CONNECTIONS); "
            "come again, and use a connection for more than one request",
            retry_after=1,
        )

    def remove(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        self._open.discard(connection)
        self.waiting.pop(connection, None)

    @property
    def too_many(self) -> bool:
        """Say whether refused connections must be closed before their callers have read why."""
        return len(self._open) > self._most + _LINGERING

    async def watch(self) -> None:
        """Check all connections again and again."""
        while True:
            await asyncio.sleep(self.limits.every)
            for connection in list(self._open):
                try:
                    connection.check()
                except Exception:
                    log.exception("a connection could not be checked")
