"""The observer: a process of its own that watches a server while it is attacked.

`python -m tests.attack.observer URL PID` reads `begin` and `end` from standard input. In between it asks
`/healthz` every few milliseconds on its own connection, sends a small text every 50 ms on another, and
samples the memory of the server's processes. At `end` it prints what it saw as one line of JSON. It is a
process of its own because the attacker's work would hold up a thread beside it.
"""

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import psutil

_PING_SECONDS, _TEXT_SECONDS, _SAMPLE_SECONDS = 0.005, 0.05, 0.03

_BODY = b'{"text": "Angela Merkel visited IBM in New York."}'
_PING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_TEXT = (
    b"POST /ner HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Observer:
    """Watches one server.

    Args:
        pid: its process; the memory of its children counts too.
    """

    def __init__(self, url: str, pid: int):
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._pid = pid
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def watch(self, ended: Callable[[], object]) -> dict[str, object]:
        """Watch until `ended` returns, and return what was seen."""
        self._stop.clear()
        self._wait = self._slowest = 0.0
        self._answers: Counter[str] = Counter()
        before = self._peak = self._resident()
        threads = [threading.Thread(target=run) for run in (self._ping, self._ask, self._sample)]
        for thread in threads:
            thread.start()
        ended()
        self._stop.set()
        for thread in threads:
            thread.join()
        return {
            "wait": self._wait,
            "slowest": self._slowest,
            "answers": self._answers,
            "grown": self._peak - before,
        }

    def _ping(self) -> None:
        """Keep the longest wait for `/healthz`, without the time that the server waited for a processor."""
        with Connection(self._address) as connection:
            while not self._stop.wait(_PING_SECONDS):
                queued, started = self._queued(), time.perf_counter()
                status = connection.ask(_PING)
                elapsed = time.perf_counter() - started
                if status != "200":
                    self._answers[f"healthz {status}"] += 1
                self._wait = max(self._wait, elapsed - (self._queued() - queued))

    def _ask(self) -> None:
        """Count the answers to small texts, and keep the longest time of one."""
        with Connection(self._address) as connection:
            while not self._stop.wait(_TEXT_SECONDS):
                started = time.perf_counter()
                self._answers[connection.ask(_TEXT)] += 1
                self._slowest = max(self._slowest, time.perf_counter() - started)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._peak = max(self._peak, self._resident())

    def _resident(self) -> int:
        total = 0
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
        return total

    def _queued(self) -> float:
        """Seconds that the thread of the event loop has waited for a processor; 0 where nobody says."""
        try:
            return int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0


class Connection:
    """A connection that is opened again when the server has closed it."""

    def __init__(self, address: tuple[str, int]):
        self._address = address
        self._socket: socket.socket | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def ask(self, request: bytes) -> str:
        """Send a request and return the status of its answer, or what went wrong."""
        fresh = self._socket is None
        try:
            return self._asked(request)
        except OSError as error:
            self._close()
            if fresh:
                return type(error).__name__
        return self.ask(request)  # an idle connection may have been closed

    def _asked(self, request: bytes) -> str:
        if self._socket is None or self._file is None:
            self._socket = socket.create_connection(self._address, timeout=120)
            self._file = self._socket.makefile("rb")
        self._socket.sendall(request)
        status = self._file.readline().split()
        if len(status) < 2:
            raise ConnectionResetError("no answer came")
        length, closes = 0, False
        while (line := self._file.readline().strip().lower()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
            closes |= name == b"connection" and value.strip() == b"close"
        self._file.read(length)
        if closes:
            self._close()
        return status[1].decode()

    def _close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = self._file = None


def _main() -> None:
    observer = Observer(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        if line.strip() == "begin":
            print("begun", flush=True)
            print(json.dumps(observer.watch(sys.stdin.readline)), flush=True)


if __name__ == "__main__":
    _main()
