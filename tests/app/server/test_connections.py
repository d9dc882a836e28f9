"""Many connections at a real server that may open few files."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from tests.deployments import put
from tests.servers import Server, serving
from tests.tiny import TEXT, write_tiny_version

FILES = 256
HEAD = b"POST /ner HTTP/1.1\r\nHost: nerve\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may open few files."""
    folder = tmp_path_factory.mktemp("poor")
    write_tiny_version(folder / "models")
    write_tiny_version(folder / "models", version=2)
    (folder / "limit").mkdir()
    code = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))\n"
    (folder / "limit/sitecustomize.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder / 'limit'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with serving(folder / "models", folder / "log") as server:
            yield server


@contextmanager
def held(server: Server, count: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections on which these bytes were sent, and no more."""
    url = httpx.URL(server.url)
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(
                socket.create_connection((url.host, url.port or 80), timeout=60)
            )
            connection.sendall(data)
            connections.append(connection)
        yield connections


@pytest.mark.parametrize("data", [b"", HEAD])
def test_connections_without_a_request_keep_nobody_out(poor: Server, data: bytes) -> None:
    with held(poor, 500, data):
        for version in (2, 1):
            with poor.fresh_client() as client:
                assert client.post("/ner", json={"text": TEXT}).status_code == 200
                answer = client.put("/models/ner-en/deployment", json={"stable": version})
                assert answer.status_code in (200, 202), answer.text
    assert psutil.Process(poor.process.pid).num_fds() < FILES


def test_where_a_request_runs_on_each_connection_others_are_told(poor: Server) -> None:
    with held(poor, 200, HEAD + b"\r\n{") as connections, poor.fresh_client() as client:
        answer = client.get("/healthz")
        assert answer.status_code == 503
        assert answer.json()["code"] == "too_many_connections"
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert psutil.Process(poor.process.pid).num_fds() < FILES
        connections[0].sendall(b'"text": "IBM"'.ljust(97) + b"}")
        assert connections[0].recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    with poor.fresh_client() as client:
        assert client.post("/ner", json={"text": TEXT}).status_code == 200


def test_a_server_without_a_free_descriptor_waits_for_one(poor: Server) -> None:
    """The limit is lowered while it runs. It may be busy meanwhile: libuv keeps one descriptor to refuse
    connections with, and another thread can take it."""
    process = psutil.Process(poor.process.pid)
    size = poor.log.stat().st_size
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds(), FILES))
    try:
        with held(poor, 5):
            time.sleep(0.5)
        assert poor.log.stat().st_size - size < 10_000
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    with poor.fresh_client() as client:
        assert client.post("/ner", json={"text": TEXT}).status_code == 200
    assert put(poor, "ner-en", stable=1).status_code in (200, 202)
