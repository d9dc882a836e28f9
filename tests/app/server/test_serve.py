"""`nerve serve` with one process and with several, which are killed."""

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.server.serve import _config
from app.settings import Settings
from tests.servers import Server, nerve, serving, until
from tests.tiny import TEXT, write_tiny_version


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two workers; tests may kill workers."""
    folder = tmp_path_factory.mktemp("pair")
    write_tiny_version(folder / "models")
    with serving(folder / "models", folder / "log", workers=2) as server:
        yield server


def kill(pid: int) -> None:
    """Kill a process and see it dead."""
    process = psutil.Process(pid)
    process.kill()
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def connections(server: Server) -> Counter[int]:
    """How many connections each worker has taken."""
    port = httpx.URL(server.url).port
    return Counter(
        pid
        for pid in server.pids
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
    )


def half_a_request(server: Server) -> tuple[socket.socket, bytes]:
    """A connection on which a request is being answered, and what it waits for."""
    url, body = httpx.URL(server.url), b'{"text": "Angela Merkel"}'
    lines = ("POST /ner HTTP/1.1", "Host: nerve", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode()
    connection = socket.create_connection((url.host, url.port or 80), timeout=60)
    connection.sendall(head + body[:10])
    until(lambda: server.metric("nerve_requests_in_flight") == 2)  # this one, and /metrics
    return connection, body[10:]


def test_one_process_is_alone(server: Server) -> None:
    assert server.pids == [server.process.pid]
    assert server.log.read_text().count("listening on") == 1
    assert server.metric("nerve_workers") == 1


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
    pair.process.send_signal(signal.SIGHUP)

    def all_new() -> bool:
        with pair.fresh_client() as client:
            assert client.post("/ner", json={"text": TEXT}).status_code == 200
        return len(pair.pids) == 2 and not before & set(pair.pids)

    until(all_new)
    until(lambda: supervisor.num_fds() <= files, seconds=30)  # nothing is kept of those that are gone


def test_a_replacement_has_the_time_that_loading_may_take(tmp_path: Path) -> None:
    for loading in (0.5, 300):
        settings = Settings(models_dir=tmp_path, load_timeout=loading)
        given = _config("app.server.serve:worker_app", settings).timeout_worker_healthcheck
        assert given >= loading + 60  # it starts before it loads


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_workers_finish_what_runs_and_leave_nothing_behind(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with serving(models_dir, tmp_path / "log", workers=2) as server:
        (metrics,) = scratch.iterdir()
        assert metrics.name.startswith("nerve-metrics-")
        children = psutil.Process(server.process.pid).children(recursive=True)
        running, rest = half_a_request(server)
        with running:
            for pid in server.pids if sent == signal.SIGINT else ():  # Ctrl-C reaches them all
                os.kill(pid, sent)
            server.process.send_signal(sent)
            until(lambda: "finishing requests" in server.log.read_text())
            assert server.process.poll() is None
            running.sendall(rest)
            answer = b""
            while chunk := running.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"label":"PER"' in answer
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert list(scratch.iterdir()) == []


def test_workers_end_with_a_supervisor_that_is_killed(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with serving(models_dir, tmp_path / "log", workers=2) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(server.pids) == 2
        server.process.kill()
        assert psutil.wait_procs(children, timeout=60)[1] == []
        assert "the supervisor died" in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
    assert list(scratch.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def test_the_option_wins_over_the_variable(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log", options=["--workers", "2"], workers=1) as server:
        until(lambda: server.metric("nerve_workers") == 2)
        assert len(server.pids) == 2
    done = nerve("serve", "--workers", "-1", models=models_dir)
    assert done.returncode != 0
    assert "--workers" in done.stderr


def test_without_a_model_workers_live_and_serve_it_when_it_comes(tmp_path: Path) -> None:
    with serving(tmp_path / "models", tmp_path / "log", ready=False, workers=2) as server:
        until(lambda: server.metric("nerve_workers") == 2)
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").status_code == 503
        write_tiny_version(tmp_path / "models")
        until(lambda: server.metric("nerve_model_info", model="ner-en") == 2)


def test_a_port_that_is_taken_is_an_error(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = nerve("serve", models=models_dir, port=taken.getsockname()[1], workers=2)
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()
    assert "listening on" not in done.stderr


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
