"""Raw HTTP: what no client library would send, and the answers to it."""

import json
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from tests.servers import Server


@dataclass(frozen=True)
class Answer:
    """Holds an answer; its status is 0 where the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, which must be JSON."""
        return json.loads(self.body)


def address(server: Server) -> tuple[str, int]:
    """The address that a server listens on."""
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def connect(server: Server, timeout: float = 30) -> socket.socket:
    """A connection to a server."""
    return socket.create_connection(address(server), timeout=timeout)


def reset(sock: socket.socket) -> None:
    """Close a connection with a reset, as a process that is killed does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def head(method: str, path: str, *lines: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


def post(path: str, body: bytes, *lines: str) -> bytes:
    """A whole request of JSON."""
    kind = "Content-Type: application/json"
    return head("POST", path, kind, f"Content-Length: {len(body)}", *lines) + body


def send(server: Server, pieces: Iterable[bytes] | bytes, timeout: float = 30) -> Answer:
    """Send bytes on a connection of their own, as far as the server takes them; return the answer."""
    with connect(server, timeout) as sock:
        with suppress(OSError):  # it answers and closes before all is sent
            for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
                sock.sendall(piece)
        return read(sock)


def read(sock: socket.socket) -> Answer:
    """Read one answer from a connection."""
    with sock.makefile("rb") as file:
        return read_from(file)


def read_from(file: IO[bytes]) -> Answer:
    """Read one answer of a connection."""
    try:
        first = file.readline().split()
        if len(first) < 2:
            return Answer(0, {}, b"")
        headers: dict[str, str] = {}
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(_chunks(file))
        else:
            body = file.read(int(headers["content-length"]) if "content-length" in headers else -1)
        return Answer(int(first[1]), headers, body)
    except ConnectionError:
        return Answer(0, {}, b"")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while size := int(file.readline().split(b";")[0] or b"0", 16):
        yield file.read(size)
        file.readline()


@contextmanager
def many(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Many connections at a time, as many of them as the server lets in."""
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                socks.append(connect(server))
        yield socks
    finally:
        for sock in socks:
            with suppress(OSError):
                reset(sock)


def assert_ours(answer: Answer, *statuses: int) -> Any:
    """Assert that a refusal has one of these statuses and our format; return its body."""
    assert answer.status in statuses, f"{answer.status}, not {statuses}: {answer.body[:300]!r}"
    assert answer.headers.get("content-type") == "application/json", answer
    body = answer.json()
    assert {"error", "code", "request_id"} <= set(body), body
    assert body["request_id"] == answer.headers.get("x-request-id"), (body, answer.headers)
    assert len(answer.body) <= 4096, f"the answer has {len(answer.body)} bytes: {answer.body[:300]!r}…"
    return body
