"""Servers that are measured: started in a process of their own, awaited, weighed and stopped."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.loopback import Connection, encode, free_port, wait_ready
from tests.bench.report import Options
from tests.servers import NERVE, environment

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes:
        process: it, the parent of its others where it has any.
    """

    port: int
    process: psutil.Process

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of one request, over a connection of its own."""
        connection = Connection(self.port, timeout=60)
        try:
            return connection.exchange(request)
        finally:
            connection.close()

    def get(self, path: str) -> str:
        """The body of a page, which must be 200."""
        status, body = self.exchange(encode("GET", path))
        if status != 200:
            raise RuntimeError(f"GET {path} answered {status}: {body[:200]!r}")
        return body.decode()

    @property
    def family(self) -> list[psutil.Process]:
        """Its processes."""
        return [self.process, *self.process.children(recursive=True)]

    @property
    def rss(self) -> int:
        """Resident bytes of all its processes; what they share counts in each."""
        total = 0
        for process in self.family:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    @property
    def cpu_seconds(self) -> float:
        """What its processes have taken of the processor."""
        total = 0.0
        for process in self.family:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextmanager
def served(
    command: Sequence[str | Path], port: int, env: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Run a command that serves on a port, once its `/readyz` answers 200, and stop it in the end.

    Raises:
        RuntimeError: it ended, or was not ready within a minute; the end of its log is in the message.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=log, stderr=log)
        family = [psutil.Process(process.pid)]
        try:
            try:
                wait_ready(process, port).close()
            except RuntimeError as error:
                log.seek(0)
                raise RuntimeError(f"{error}\n{log.read().decode(errors='replace')[-2_000:]}") from None
            yield Served(port, family[0])
        finally:
            with suppress(psutil.NoSuchProcess):
                family += family[0].children(recursive=True)
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.resume()  # who sleeps does not end
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for left in family[1:]:
                with suppress(psutil.NoSuchProcess):
                    left.kill()


@contextmanager
def ours(options: Options, **settings: object) -> Iterator[Served]:
    """`nerve serve` as it is in service, with the model of the options; its lines go to a file."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        given: dict[str, object] = {"default_model": options.model, "state_dir": state, "poll_seconds": 0.5}
        given |= {"workers": 0, "threads": 0}
        env = environment(options.models, port=port, **(given | settings))
        with served([NERVE, "serve"], port, env) as server:
            yield server


@contextmanager
def floor() -> Iterator[Served]:
    """FastAPI and uvicorn that answer a constant: what HTTP alone takes, and the load."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.bench.floor:app", "--port", str(port)]
    with served([*command, "--no-access-log"], port) as server:
        yield server
