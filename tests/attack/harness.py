"""The harness: attacks a real server, and says what others felt of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.servers import Server, serving

T = TypeVar("T")

MB = 1_000_000

WAIT = 0.5
"""Seconds that the event loop may be held up: ten times what is meant to be, for machines that are busy.
What it guards against took from 1.6 to 38 seconds."""

MEMORY = 250 * MB
"""Bytes by which an attack may make a server grow: some copies of the largest body, and no more."""

_TRIES = 3
"""Attempts of which the one with the shortest wait counts: other work on the machine holds up some, and a
fault holds up each."""


@dataclass(frozen=True)
class Seen:
    """Holds what others felt of an attack.

    Attributes:
        wait: the longest wait for `/healthz`, in seconds, without waits for a processor.
        slowest: the longest time of a small request.
        answers: how many small requests were answered with each status.
        grown: the most bytes by which the server had grown.
    """

    wait: float
    slowest: float
    answers: dict[str, int]
    grown: int


@dataclass
class Target:
    """A server that is attacked, and its observer."""

    server: Server
    observer: "subprocess.Popen[str]"
    idle: Seen = field(init=False)

    def seen(self, attack: Callable[[], T]) -> tuple[T, Seen]:
        """Return what an attack returned, and what others felt of it."""
        assert self.observer.stdin
        assert self.observer.stdout
        self._tell("begin")
        assert self.observer.stdout.readline() == "begun\n", "the observer died"
        try:
            result = attack()
        finally:
            self._tell("end")
            told = self.observer.stdout.readline()
        return result, Seen(**json.loads(told))

    def withstands(self, attack: Callable[[], T], wait: float = WAIT, memory: int = MEMORY) -> T:
        """Attack, and assert that nobody else felt much of it; return what the attack returned.

        Args:
            wait: seconds that the event loop may be held up.
            memory: bytes that the server may grow by.
        """
        begun = self.server.log.stat().st_size
        allowed = wait + self.idle.wait
        for last in reversed(range(_TRIES)):
            result, seen = self.seen(attack)
            refused = {status: count for status, count in seen.answers.items() if status != "200"}
            assert not refused, f"others were not answered 200 while it ran: {seen.answers}"
            assert seen.grown <= memory, (
                f"the server grew by {seen.grown / MB:.0f} MB, {memory / MB:.0f} MB are allowed; {seen}"
            )
            if seen.wait <= allowed or not last:
                break
        assert seen.wait <= allowed, (
            f"/healthz waited for {seen.wait:.2f} s, {allowed:.2f} s are allowed; {seen}"
        )
        assert_quiet(self.server.log, begun)
        return result

    def _tell(self, what: str) -> None:
        assert self.observer.stdin
        self.observer.stdin.write(what + "\n")
        self.observer.stdin.flush()


@contextmanager
def target(models: Path, folder: Path, **settings: Any) -> Iterator[Target]:
    """A server to attack, with settings as they are by default; at the end it must be as it was.

    Args:
        folder: where its log and state go.
    """
    defaults = {"threads": 0, "poll_seconds": 0.5, "state_dir": folder / "state"}
    with serving(models, folder / "server.log", **(defaults | settings)) as server:
        command = [sys.executable, "-m", "tests.attack.observer", server.url, str(server.process.pid)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        ) as observer:
            attacked = Target(server, observer)
            warm(server)
            _, attacked.idle = attacked.seen(lambda: observer.poll() or _pause())
            try:
                yield attacked
            finally:
                observer.kill()


def _pause() -> None:
    import time

    time.sleep(1)


def warm(server: Server) -> None:
    """Have a server do each kind of thing once, so that its memory is what it is in use."""
    for text in ("Angela Merkel visited IBM in New York.", "IBM, " * 10_000):
        assert server.client.post("/ner", json={"text": text}).status_code == 200
    server.client.get("/openapi.json")
    server.client.get("/metrics")


def resident(server: Server) -> int:
    """The bytes of memory of a server's own process."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


def assert_quiet(log: Path, begun: int = 0) -> None:
    """Assert that a log has no trace of a crash from a byte on."""
    with log.open("rb") as file:
        file.seek(begun)
        said = file.read().decode(errors="replace")
    for sign in ("Traceback", "crashed", "never retrieved", "was never awaited", "Exception in"):
        assert sign not in said, f"the log has {sign!r}: {excerpt(said, sign)}"


def excerpt(said: str, sign: str, around: int = 1500) -> str:
    """The part of a text around a sign."""
    at = said.index(sign)
    return said[max(0, at - around // 3) : at + around]
