"""The workers of one server, which are killed, hung up on, and cannot start."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.servers import Server, nerve, serving, until
from tests.tiny import TEXT, write_tiny_version


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[int]]]:
    """A server of two workers, and how it answered `/readyz` until both took requests."""
    folder = tmp_path_factory.mktemp("pair")
    write_tiny_version(folder / "models")
    statuses = []
    with serving(folder / "models", folder / "log", ready=False, workers=2) as server:

        def both() -> bool:
            with server.fresh_client() as client:
                statuses.append(client.get("/readyz").status_code)
                return "nerve_workers 2.0" in client.get("/metrics").text

        until(both)
        yield server, statuses


@pytest.fixture(scope="module")
def pair(start: tuple[Server, list[int]]) -> Server:
    """A server of two workers; tests may kill workers."""
    return start[0]


def kill(pid: int) -> None:
    """Kill a process and see it dead."""
    process = psutil.Process(pid)
    process.kill()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


@contextmanager
def load(server: Server) -> Iterator[list[int]]:
    """Several callers ask without end; the statuses of their answers. Some use a connection for all."""
    statuses: list[int] = []
    ended = threading.Event()

    def call(fresh: bool) -> None:
        client = server.fresh_client()
        while not ended.is_set():
            statuses.append(client.post("/ner", json={"text": TEXT}).status_code)
            if fresh:
                client.close()
                client = server.fresh_client()
            ended.wait(0.05)
        client.close()

    with ThreadPoolExecutor(5) as pool:
        calling = [pool.submit(call, fresh) for fresh in (False, False, False, True, True)]
        try:
            yield statuses
        finally:
            ended.set()
        for one in calling:
            one.result()


def connections(server: Server) -> Counter[int]:
    """How many connections each worker has taken."""
    port = httpx.URL(server.url).port
    return Counter(
        pid
        for pid in server.pids
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
    )


def test_a_worker_takes_requests_when_it_can_answer_them(start: tuple[Server, list[int]]) -> None:
    statuses = start[1]
    first = statuses.index(200)
    assert set(statuses[:first]) <= {503}
    assert set(statuses[first:]) == {200}


def test_two_workers_share_the_connections(pair: Server) -> None:
    with pair.clients(40) as clients:
        for client in clients:
            assert client.post("/ner", json={"text": TEXT}).status_code == 200
        taken = connections(pair)
    assert sorted(taken) == pair.pids
    assert len(pair.pids) == 2
    assert pair.log.read_text().count("listening on") == 1


def test_a_killed_worker_is_replaced_and_no_request_fails_meanwhile(pair: Server) -> None:
    victim, survivor = pair.pids
    kill(victim)
    with pair.fresh_client() as first:
        assert first.post("/ner", json={"text": TEXT}).status_code == 200

    def back() -> bool:
        with pair.fresh_client() as client:
            assert client.get("/readyz").status_code == 200
            assert client.post("/ner", json={"text": TEXT}).status_code == 200
            told = client.get("/metrics").text
        return "nerve_workers 2.0" in told and victim not in pair.pids

    until(back)
    assert len(pair.pids) == 2
    assert survivor in pair.pids
    assert f"worker {victim} died (signal 9)" in pair.log.read_text()


def test_a_hangup_replaces_the_workers_and_no_request_fails_meanwhile(pair: Server) -> None:
    before = set(pair.pids)
    supervisor = psutil.Process(pair.process.pid)
    until(lambda: pair.metric("nerve_workers") == 2)
    files = supervisor.num_fds()
    with load(pair) as statuses:
        pair.process.send_signal(signal.SIGHUP)
        until(lambda: len(pair.pids) == 2 and not before & set(pair.pids))
    assert set(statuses) == {200}
    assert len(statuses) > 20
    until(lambda: supervisor.num_fds() <= files, seconds=30)  # nothing is kept of those that are gone


def test_workers_that_cannot_start_are_an_error(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    code = "import sys\nif '--multiprocessing-fork' in sys.argv: sys.exit('broken on purpose')\n"
    (tmp_path / "broken/sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = nerve("serve", models=models_dir, workers=2)
    assert done.returncode != 0
    assert "could not start (exit code 1)" in done.stderr
