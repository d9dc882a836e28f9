"""The load: a process of its own that sends encoded requests and notes when each was answered.

It shares the machine with the server that it loads, so it does little: raw sockets, one loop, of an answer
the status and length only. *Closed*: each connection sends its next request when its last is answered.
*Open*: each request is due at a time laid down before, and what it took counts from then, so that a server
that stalls is charged for all who came meanwhile (Tene, "How not to measure latency").
"""

import gc
import pickle
import re
import select
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_RETRY = re.compile(rb'"retry_after": *([0-9.e-]+)')
REPOSITORY = Path(__file__).parents[2]

HUNG_UP = 0
"""Status of a request whose client hung up, or that nothing answered before the load ended."""

BROKEN = -1
"""Status of a request whose connection the server closed."""


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        requests: encoded; sent in turn, or as `order` says.
        seconds: length of a closed loop; of an open one, how long answers are waited for after the end.
        connections: of a closed loop; of an open one, the most that are open at once.
        arrivals: of an open loop, the seconds from the start at which each request is due, ascending.
        order: of an open loop, which request each arrival is; in turn where empty.
        count: of a closed loop, requests after which it ends if time has not ended it; 0: time alone.
        hang_up: seconds after which a client closes its connection, answered or not; None: never.
    """

    port: int
    requests: tuple[bytes, ...]
    seconds: float
    connections: int = 1
    arrivals: tuple[float, ...] = ()
    order: tuple[int, ...] = ()
    count: int = 0
    hang_up: float | None = None


class Answer(NamedTuple):
    """One request, in seconds from the start.

    Attributes:
        request: its place in the plan's requests.
        due: when it should have been sent; in a closed loop, when it was.
        status: of HTTP, or `HUNG_UP`, or `BROKEN`.
        retry_after: seconds that the answer's body named, -1 where it named none.
    """

    request: int
    due: float
    sent: float
    done: float
    status: int
    retry_after: float

    @property
    def seconds(self) -> float:
        return self.done - self.due


@dataclass(frozen=True)
class Result:
    """What came of a plan: every request's answer, in the order of the answers.

    Attributes:
        started: `time.perf_counter()` of the start, which all processes of a machine share.
        cpu_seconds: what the load itself took of the processor.
    """

    answers: list[Answer]
    started: float
    cpu_seconds: float
    seconds: float

    def between(self, start: float, end: float) -> list[Answer]:
        """Those that were answered between two points of time, in seconds from the start."""
        return [answer for answer in self.answers if start <= answer.done < end]


class Load:
    """A load that runs. Use it as a context, and ask for `result` inside it."""

    def __init__(self, plan: Plan):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert self._process.stdin
        pickle.dump(plan, self._process.stdin)
        self._process.stdin.close()

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def result(self) -> Result:
        """Wait until it ends.

        Raises:
            RuntimeError: it failed; it has said why on standard error.
        """
        assert self._process.stdout
        data = self._process.stdout.read()
        if self._process.wait():
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        result: Result = pickle.loads(data)
        return result


def run(plan: Plan) -> Result:
    """Send the plan and wait for its end."""
    with Load(plan) as load:
        return load.result()


class _Connection:
    """One socket and the request on it."""

    __slots__ = ("busy", "data", "due", "number", "request", "sent", "socket")

    def __init__(self, port: int, number: int):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = number
        self.data = b""
        self.busy = False
        self.request = 0
        self.due = self.sent = 0.0


class _Loop:
    """The one loop of the load's process."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._selector = selectors.DefaultSelector()
        self._answers: list[Answer] = []
        self._free: list[_Connection] = []
        self._next = 0
        self._opened = 0
        self._started = 0.0

    def run(self) -> Result:
        # Pool first: to connect is no part of what is measured.
        for _ in range(self._plan.connections if not self._plan.arrivals else 1):
            self._free.append(self._open())
        self._started = time.perf_counter()
        cpu = time.process_time()
        (self._open_loop if self._plan.arrivals else self._closed_loop)()
        seconds = time.perf_counter() - self._started
        return Result(self._answers, self._started, time.process_time() - cpu, seconds)

    def _now(self) -> float:
        return time.perf_counter() - self._started

    def _open(self) -> _Connection:
        connection = _Connection(self._plan.port, self._opened)
        self._opened += 1
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _send(self, connection: _Connection, request: int, due: float | None = None) -> bool:
        """Whether it could be sent."""
        connection.request = request
        connection.busy = True
        connection.sent = self._now()
        connection.due = connection.sent if due is None else due
        try:
            connection.socket.sendall(self._plan.requests[request])
        except OSError:
            self._drop(connection, BROKEN)
            return False
        return True

    def _drop(self, connection: _Connection, status: int) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection.busy:
            self._note(connection, status, -1)

    def _note(self, connection: _Connection, status: int, retry_after: float) -> None:
        self._answers.append(
            Answer(connection.request, connection.due, connection.sent, self._now(), status, retry_after)
        )
        connection.busy = False

    def _receive(self, connection: _Connection) -> bool:
        """Whether the connection is free for the next request."""
        try:
            data = connection.socket.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._drop(connection, BROKEN)
            return False
        if connection.data:
            data = connection.data + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            found = _LENGTH.search(data, 0, end + 2)
            if len(data) >= end + 4 + (int(found[1]) if found else 0):
                status = int(data[9:12])
                retry = _RETRY.search(data, end) if status != 200 else None
                connection.data = b""
                self._note(connection, status, float(retry[1]) if retry else -1)
                return True
        connection.data = data
        return False

    def _closed_loop(self) -> None:
        count, seconds, selector = len(self._plan.requests), self._plan.seconds, self._selector
        wanted = self._plan.count
        for connection in self._free:
            self._advance(connection, count)
        while (left := seconds - self._now()) > 0 and not (wanted and len(self._answers) >= wanted):
            for key, _ in selector.select(left):
                connection = key.data
                if self._receive(connection):
                    self._advance(connection, count)
                elif not connection.busy:  # the server closed it
                    self._advance(self._open(), count)

    def _advance(self, connection: _Connection, count: int) -> None:
        """Send the next request on it, if any is left."""
        if self._plan.count and self._next >= self._plan.count:
            return
        self._send(connection, self._next % count)
        self._next += 1

    def _open_loop(self) -> None:
        plan, selector = self._plan, self._selector
        waiting: deque[tuple[int, float]] = deque()
        calls: deque[tuple[float, _Connection, int]] = deque()  # who hangs up when
        busy, at, arrivals = 0, 0, plan.arrivals
        end = arrivals[-1] + plan.seconds
        while True:
            now = self._now()
            while at < len(arrivals) and arrivals[at] <= now:
                waiting.append((plan.order[at] if plan.order else at % len(plan.requests), arrivals[at]))
                at += 1
            while waiting and (self._free or busy < plan.connections):
                connection = self._free.pop() if self._free else self._open()
                request, due = waiting.popleft()
                if self._send(connection, request, due):
                    busy += 1
                    if plan.hang_up is not None:
                        connection.number = self._opened = self._opened + 1
                        calls.append((now + plan.hang_up, connection, connection.number))
            while calls and calls[0][0] <= now:
                _, connection, number = calls.popleft()
                if connection.busy and connection.number == number:
                    self._drop(connection, HUNG_UP)
                    busy -= 1
            if now >= end or (at == len(arrivals) and not busy and not waiting):
                break
            wake = min(end, arrivals[at] if at < len(arrivals) else end, calls[0][0] if calls else end)
            # The selector counts in milliseconds, its own descriptor can be waited for in microseconds.
            ready, _, _ = select.select([selector], (), (), max(0.0, wake - now))
            for key, _ in selector.select(0) if ready else ():
                connection, was = key.data, key.data.busy
                if self._receive(connection):
                    self._free.append(connection)
                    busy -= 1
                elif not connection.busy:  # the server closed it, idle or not
                    busy -= was
                    if connection in self._free:
                        self._free.remove(connection)
        unanswered = [key.data for key in selector.get_map().values() if key.data.busy]
        for connection in unanswered:
            self._drop(connection, HUNG_UP)
        now = self._now()
        self._answers += [Answer(request, due, now, now, HUNG_UP, -1) for request, due in waiting]


def poisson(rate: float, seconds: float, seed: int = 1) -> tuple[float, ...]:
    """Arrivals of a Poisson process: so many a second on average, each whenever it likes."""
    from random import Random

    random, arrivals, now = Random(seed), [], 0.0
    while (now := now + random.expovariate(rate)) < seconds:
        arrivals.append(now)
    return tuple(arrivals)


def evenly(rate: float, seconds: float) -> tuple[float, ...]:
    """Arrivals at even distances."""
    return tuple(number / rate for number in range(int(rate * seconds)))


def answered(answers: Sequence[Answer]) -> list[Answer]:
    """Those with a status of 200.

    Raises:
        RuntimeError: there are none.
    """
    good = [answer for answer in answers if answer.status == 200]
    if not good:
        seen = sorted({answer.status for answer in answers})
        raise RuntimeError(f"no request was answered 200; {len(answers)} others had the statuses {seen}")
    return good


if __name__ == "__main__":
    # The classes must be those of the module that the parent imported, not of `__main__`.
    from tests.bench.load import _Loop as Loop

    plan = pickle.load(sys.stdin.buffer)
    gc.disable()
    sys.stdout.buffer.write(pickle.dumps(Loop(plan).run()))
