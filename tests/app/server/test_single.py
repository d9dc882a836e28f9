"""The server as one process."""

import itertools
import socket
import struct
import time

import httpx

from tests.servers import Server, until

LINE = b'{"text": "Angela Merkel visited IBM in New York."}\n'
MANY = b'{"texts": [' + b", ".join([b'"' + b"Angela Merkel visited IBM. " * 50 + b'"'] * 20) + b"]}"


def test_one_process_is_alone(server: Server) -> None:
    assert server.pids == [server.process.pid]
    assert server.log.read_text().count("listening on") == 1
    assert server.metric("nerve_workers") == 1


def post(path: str, body: bytes, more: int = 0, kind: str = "json") -> bytes:
    """A request whose body is promised to be longer than it is."""
    size = len(body) + more
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/{kind}\r\nContent-Length: {size}\r\n"
    )
    return head.encode() + b"\r\n" + body


def test_callers_that_hang_up_are_no_fault(server: Server) -> None:
    url = httpx.URL(server.url)
    requests = [
        post("/ner", LINE),
        post("/ner", LINE, more=50),
        post("/ner", MANY),
        post("/ner", MANY, more=50),
        post("/ner/stream", LINE * 300, kind="x-ndjson"),
        post("/ner/stream", LINE * 100, more=10**6, kind="x-ndjson"),
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    before = len(server.log.read_text())
    patience = (0, 0.001, 0.003, 0.01)
    for request, seconds, reset in itertools.product(requests * 2, patience, (False, True)):
        with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
            connection.sendall(request)
            time.sleep(seconds)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with server.fresh_client() as client:  # it comes after the others
        assert client.post("/ner", json={"text": "IBM"}).status_code == 200
    until(lambda: server.metric("nerve_requests_in_flight") == 1)  # of /metrics
    lines = server.log.read_text()[before:].splitlines()
    assert any(" 499 " in line for line in lines)
    assert [line for line in lines if line.split()[1:2] not in (["INFO"], ["DEBUG"])] == []
