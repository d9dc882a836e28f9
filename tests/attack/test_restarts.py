"""Servers that end, are ended, and start again, in every way that machines have."""

import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.attack.harness import assert_quiet
from tests.attack.raw import connect, head, many, post
from tests.attack.test_streams import CHUNKED
from tests.servers import nerve, serving, until
from tests.tiny import write_tiny_version

pytestmark = pytest.mark.attack

BODY = b'{"text": "IBM"}'


def test_workers_are_replaced_under_load_and_no_request_is_lost(tmp_path: Path) -> None:
    """Fresh connections and lasting ones, while a hangup replaces both workers."""
    write_tiny_version(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log", workers=2) as server:
        outcomes: Counter[str] = Counter()
        stop = threading.Event()

        def fresh() -> None:
            while not stop.is_set():
                outcomes[_one(server.url)] += 1

        def lasting() -> None:
            with server.fresh_client() as client:
                while not stop.is_set():
                    try:
                        outcomes[str(client.post("/ner", json={"text": "IBM"}).status_code)] += 1
                    except httpx.RemoteProtocolError:  # an idle connection may be closed
                        outcomes["closed while idle"] += 1
                    except httpx.TransportError as error:
                        outcomes[repr(error)] += 1
                    time.sleep(0.01)

        threads = [threading.Thread(target=run) for run in (fresh, fresh, fresh, lasting, lasting)]
        for thread in threads:
            thread.start()
        try:
            before = set(server.pids)
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(server.pids) == 2 and not before & set(server.pids), seconds=90)
            time.sleep(0.5)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        lost = {what: count for what, count in outcomes.items() if what not in ("200", "closed while idle")}
        assert not lost, f"requests were lost: {dict(outcomes)}"
        assert outcomes["closed while idle"] <= 20, outcomes
        assert_quiet(server.log)


def _one(url: str) -> str:
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            return str(client.post("/ner", json={"text": "IBM"}).status_code)
    except httpx.TransportError as error:
        return repr(error)


def test_a_port_that_is_taken_is_said_and_nothing_else(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = nerve("serve", models=tmp_path / "models", port=port)
    assert done.returncode not in (0, -signal.SIGKILL)
    assert str(port) in done.stderr
    for lie in ("listening on", "Traceback", "finishing requests", "startup complete", "started"):
        assert lie not in done.stderr, done.stderr
    assert not (tmp_path / "models/.state/ner-en.json").exists(), "it wrote state, and never served"


def test_a_group_that_is_killed_leaves_nothing_after_the_next_start(tmp_path: Path) -> None:
    """Nobody can put anything away, so that the next server does."""
    write_tiny_version(tmp_path / "models")
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "models", tmp_path / "log", workers=2))
        family = psutil.Process(server.process.pid).children(recursive=True)
        worker = psutil.Process(server.pids[0])
        left = Path(worker.environ()["PROMETHEUS_MULTIPROC_DIR"])
        assert left.is_dir()
        for process in (psutil.Process(server.process.pid), *family):
            process.kill()
        server.process.wait(30)
        psutil.wait_procs(family, 30)
        assert left.is_dir(), "somebody was left to put it away"
    with serving(tmp_path / "models", tmp_path / "next", workers=2):
        assert not left.exists(), f"{left} was left by a server that is dead"


def test_callers_who_do_nothing_do_not_keep_a_server_from_ending(tmp_path: Path) -> None:
    """Idle connections, half a head, half a body, and streams of nobody."""
    write_tiny_version(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log", request_timeout=2) as server:
        with many(server, 20) as socks, connect(server) as reader:
            for number, sock in enumerate(socks):
                begun = [b"", head("GET", "/healthz")[:-2], post("/ner", BODY)[:-1], CHUNKED]
                sock.sendall(begun[number % 4])
            reader.sendall(post("/ner", BODY))
            time.sleep(0.3)
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            seconds = time.monotonic() - started
        assert seconds < 25, f"it ended after {seconds:.0f} s"
        assert_quiet(server.log)


def test_a_second_signal_ends_a_server_at_once(tmp_path: Path) -> None:
    """Although a stream still has time."""
    write_tiny_version(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log") as server, connect(server) as sock:
        sock.sendall(post("/ner", BODY)[:-1])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)  # sooner it may be the first once more, sent to the process and to its group
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.process.kill()
            pytest.fail("10 s after the second signal it still runs")
