"""A real `nerve serve` in a process of its own, on a free port of the loopback."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

NERVE = Path(sys.executable).with_name("nerve")


@dataclass
class Server:
    """A running server.

    Attributes:
        process: it, or the supervisor of its workers.
        log: the file its standard error goes to.
        client: of a connection that lasts, and so of one worker.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    client: httpx.Client

    @property
    def pids(self) -> list[int]:
        """The processes that answer: its workers, or itself."""
        workers = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # a zombie counts as none
                if "spawn_main" in " ".join(child.cmdline()):
                    workers.append(child.pid)
        return sorted(workers) or [self.process.pid]

    @contextmanager
    def clients(self, count: int) -> Iterator[list[httpx.Client]]:
        """Clients with an open connection each; the system spreads them over the workers."""
        with ExitStack() as stack:
            clients = [stack.enter_context(self.fresh_client()) for _ in range(count)]
            for client in clients:
                client.get("/healthz")
            yield clients

    def fresh_client(self) -> httpx.Client:
        """A client that shares no connection with another."""
        return httpx.Client(base_url=self.url, timeout=300)

    def ner(self, text: str, **options: Any) -> Any:
        """The answer to one text, which must be 200."""
        answer = self.client.post("/ner", json={"text": text, **options})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sample_sum(self.client.get("/metrics").text, name, labels)


def environment(models: Path, **settings: Any) -> dict[str, str]:
    """This process's environment with a server's settings, and no others of them."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NERVE_")}
    ours = {"models_dir": models, "port": 0, "workers": 1, "threads": 1, "poll_seconds": 0.05} | settings
    return kept | {f"NERVE_{key.upper()}": str(value) for key, value in ours.items()}


def nerve(*arguments: str, models: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a `nerve` command to its end."""
    return subprocess.run(
        [NERVE, *arguments],
        env=environment(models, **settings),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@contextmanager
def serving(
    models: Path, log: Path, ready: bool = True, options: Sequence[str] = (), **settings: Any
) -> Iterator[Server]:
    """A server of a models folder; it is stopped at the end, if a test has not done so.

    Args:
        ready: wait until its default model answers, and each of its `workers` does.
        options: of the command line.
    """
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [NERVE, "serve", *options],
            env=environment(models, **settings),
            stderr=stderr,
            cwd=log.parent,
            start_new_session=True,  # a test may signal its whole group
        )
    try:
        until(lambda: "listening on" in log.read_text() or process.poll() is not None)
        found = re.search(r"listening on (http://[0-9.:]+)", log.read_text())
        assert found, log.read_text()
        with httpx.Client(base_url=found[1], timeout=300) as client:
            server = Server(process, found[1], log, client)
            if ready:
                until(lambda: client.get("/readyz").status_code == 200)
                until(lambda: server.metric("nerve_workers") >= settings.get("workers", 1))
            yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait for a condition that must come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def sample_sum(exposition: str, name: str, labels: dict[str, str]) -> float:
    """The sum of the samples `name` with these labels in a Prometheus text."""
    total = 0.0
    for line in exposition.splitlines():
        if line.startswith((name + "{", name + " ")) and all(
            f'{key}="{value}"' in line for key, value in labels.items()
        ):
            total += float(line.rsplit(" ", 1)[1])
    return total
