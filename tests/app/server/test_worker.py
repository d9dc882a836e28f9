"""One of several workers: at its start, at a signal, and once its supervisor is gone."""

import os
import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from tests.servers import Server, serving, until
from tests.tiny import write_tiny_version


def half_a_request(server: Server) -> tuple[socket.socket, bytes]:
    """A connection on which a request is being answered, and what it waits for."""
    url, body = httpx.URL(server.url), b'{"text": "Angela Merkel"}'
    lines = ("POST /ner HTTP/1.1", "Host: nerve", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode()
    connection = socket.create_connection((url.host, url.port or 80), timeout=60)
    connection.sendall(head + body[:10])
    until(lambda: server.metric("nerve_requests_in_flight") == 2)  # this one, and /metrics
    return connection, body[10:]


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


def test_without_a_model_workers_live_and_serve_it_when_it_comes(tmp_path: Path) -> None:
    with serving(tmp_path / "models", tmp_path / "log", ready=False, workers=2) as server:
        until(lambda: server.metric("nerve_workers") == 2)
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").status_code == 503
        write_tiny_version(tmp_path / "models")
        until(lambda: server.metric("nerve_model_info", model="ner-en") == 2)
