"""Streams over a socket, for tests: what is sent to `POST /ner/stream`, and what comes back."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import httpx

from tests.servers import Server

LARGE = json.dumps({"text": f"New{' ' * 10_000}York"}).encode() + b"\n"
"""A line of 10 kB whose answer has 10 kB too, and costs next to nothing."""

NDJSON = {"Content-Type": "application/x-ndjson"}
PLAIN = {"Content-Type": "text/plain"}


def lines_of(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def read(body: bytes) -> tuple[list[Any], Any]:
    """The lines of an answer, and its last."""
    assert body.endswith(b"\n")
    *results, last = map(json.loads, body.decode().removesuffix("\n").split("\n"))
    assert "done" in last
    assert not any("done" in result for result in results)
    return results, last


def ask(server: Server, body: bytes, query: str = "", headers: dict[str, str] = NDJSON) -> httpx.Response:
    return server.client.post(f"/ner/stream{query}", content=body, headers=headers)


def answers(server: Server, body: bytes, query: str = "", headers: dict[str, str] = NDJSON) -> list[Any]:
    """The answers to a whole body, none of them an error."""
    response = ask(server, body, query, headers)
    assert response.status_code == 200, response.text
    results, last = read(response.content)
    assert last == {"done": True, "records": len(results), "failed": 0, "line": last["line"]}
    return results


# on a connection of its own


def head(length: str) -> bytes:
    lines = [
        "POST /ner/stream HTTP/1.1",
        "Host: nerve",
        "Content-Type: application/x-ndjson",
        length,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def received(sock: socket.socket) -> bytes:
    """The body of the answer, to its end."""
    with sock.makefile("rb") as answer:
        skip_head(answer)
        parts = []
        while size := int(answer.readline(), 16):
            parts.append(answer.read(size))
            assert answer.readline() == b"\r\n"
        return b"".join(parts)


def skip_head(answer: IO[bytes]) -> None:
    assert answer.readline().startswith(b"HTTP/1.1 200")
    while answer.readline() != b"\r\n":
        pass


def skip_to(answer: IO[bytes], part: bytes) -> bytes:
    """The next line that has this part."""
    while part not in (line := answer.readline()):
        assert line, "the answer ended"
    return line


def spooled(server: Server) -> int | None:
    """The size of the file that a stream of the server keeps answers in; None without one."""
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if f"{server.log.parent}/spool/" in os.readlink(link):
                return link.stat().st_size
    return None
