import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.server.protocol import Protocol

LARGE = 3_000_000
LATE = threading.Event()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with as many bytes as the path says; `/late` waits between head and body."""
    if scope["type"] != "http":
        return
    path = scope["path"].strip("/")
    size = 3 if path == "late" else int(path)
    head = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    while path == "late" and not LATE.is_set():
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"x" * size})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that speaks our protocol."""
    config = uvicorn.Config(app, port=0, http=Protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def ask(path: str, more: str = "") -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def body_of(connection: socket.socket, data: bytes = b"") -> tuple[bytes, bytes]:
    """The body of the next answer, and what came after it."""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 20)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    (size,) = [
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")
    ]
    while len(body) < size:
        received = connection.recv(1 << 20)
        assert received
        body += received
    return body[:size], body[size:]


def test_head_and_body_come_together(port: int) -> None:
    with connected(port) as connection:
        for _ in range(20):
            connection.sendall(ask("5"))
            answer = connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\nxxxxx")


def test_a_head_does_not_wait_for_a_body_that_is_late(port: int) -> None:
    LATE.clear()
    with connected(port) as connection:
        connection.sendall(ask("late"))
        head = connection.recv(1 << 16)
        assert head.endswith(b"\r\n\r\n")
        LATE.set()
        assert connection.recv(1 << 16) == b"xxx"


def test_an_answer_without_a_body_is_sent(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(ask("0"))
        assert connection.recv(1 << 16).endswith(b"\r\n\r\n")


def test_requests_that_come_together_are_answered_in_order(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(ask("7") + ask("0") + ask(f"{LARGE}") + ask("9"))
        rest = b""
        for size in (7, 0, LARGE, 9):
            body, rest = body_of(connection, rest)
            assert body == b"x" * size
        assert rest == b""


def test_an_answer_is_whole_before_the_connection_is_closed(port: int) -> None:
    for size in (0, 11, LARGE):
        with connected(port) as connection:
            connection.sendall(ask(f"{size}", "Connection: close\r\n"))
            body, rest = body_of(connection)
            assert (len(body), rest, connection.recv(1)) == (size, b"", b"")
