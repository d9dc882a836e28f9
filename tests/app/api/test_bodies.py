"""What bodies may cost, whoever sends them: a real server with little room, and strangers."""

import json
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.api.streams import chunk, connected, head, lines_of, read, received, skip_to
from tests.servers import Server, serving, until
from tests.tiny import write_tiny_version

SIZE = 8 * 1024 * 1024
JSON = {"Content-Type": "application/json"}
LARGE = b'{"text": "IBM"}'.ljust(700_000)


def filled(start: str, part: str, end: str) -> bytes:
    """A body of nearly 8 MiB that repeats a part."""
    return (start + part * ((SIZE - len(start) - len(end)) // len(part)) + end).encode()


HOSTILE = {
    "numbers for texts": (filled('{"texts":[0', ",0", "]}"), "too_many_values"),
    "objects for texts": (filled('{"texts":[{}', ",{}", "]}"), "too_many_values"),
    "empty texts": (filled('{"texts":[""', ',""', "]}"), "too_many_values"),
    "labels": (filled('{"text":"a","labels":["a"', ',"a"', "]}"), "too_many_values"),
    "lists": (filled('{"a":[[]', ",[]", "]}"), "too_many_values"),
    "lists in lists": (filled('{"a":[0', "," + "[" * 100 + "]" * 100, "]}"), "too_many_values"),
    "open brackets": (b"[" * SIZE, "too_many_values"),
    "unknown fields": (
        b'{"k0":0,%s}' % b",".join(b'"k%d":0' % n for n in range(600_000)),
        "too_many_values",
    ),
    "the same field": (filled('{"text":"a"', ',"text":"a"', "}"), "too_many_values"),
    "halves of pairs": (filled('{"texts":["a"', ',"\\ud800"', "]}"), "too_many_values"),
    "a long half of a pair": (filled('{"text":"', "\\ud800", '"}'), "lone_surrogate"),
    "escapes": (filled('{"text":"', "\\u0041", '"}'), "text_too_long"),
    "backslashes": (filled('{"text":"', "\\\\", '"}'), "text_too_long"),
    "a long number": (filled('{"text":', "9", "}"), "invalid_json"),
    "a long name": (filled('{"text":"a","', "k", '":0}'), "invalid_request"),
    "no UTF-8": (filled('{"text":"', "a", "")[:-1] + b"\xff", "invalid_utf8"),
    "quotes": (b'"' * SIZE, "invalid_json"),
}


def test_no_body_costs_much_memory_or_holds_up_others(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    for name, (body, code) in HOSTILE.items():
        started = time.monotonic()
        answer = server.client.post("/ner", content=body, headers=JSON)
        assert answer.json()["code"] == code, name
        assert len(answer.content) < 1_000, name
        assert time.monotonic() - started < 20, name
        assert process.memory_info().rss - before < 150_000_000, name


def test_the_room_is_parted_among_the_workers(tmp_path: Path) -> None:
    state = create_app(Settings(models_dir=tmp_path, workers=4)).state
    assert (state.bodies.size, state.spools.size) == (64 * 2**20, 2**30)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for 1 MB of bodies."""
    folder = tmp_path_factory.mktemp("narrow")
    write_tiny_version(folder / "models")
    with serving(folder / "models", folder / "log", max_bodies_bytes=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for a second."""
    folder = tmp_path_factory.mktemp("hasty")
    write_tiny_version(folder / "models")
    limits: dict[str, Any] = {"body_timeout": 1, "stream_idle_timeout": 1, "request_timeout": 0}
    with serving(folder / "models", folder / "log", **limits) as server:
        yield server


def begun(server: Server, route: str, size: int) -> socket.socket:
    """A connection on which a body has begun that never ends."""
    sock = connected(server)
    lines = [
        f"{route} HTTP/1.1",
        "Host: nerve",
        "Content-Type: application/json",
        "Content-Length: 8000000",
    ]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + b" " * size)
    return sock


def status_of(server: Server, body: bytes) -> int:
    return server.client.post("/ner", content=body, headers=JSON).status_code


@contextmanager
def little_room(server: Server, route: str = "POST /ner") -> Iterator[None]:
    """An unfinished body takes most of the room; it begins again if one that asks about it had the room."""
    while True:
        with begun(server, route, 900_000) as sock:
            while not select.select([sock], [], [], 0)[0]:
                if status_of(server, LARGE) == 429:
                    yield
                    return


@pytest.mark.parametrize("route", ["POST /ner", "PUT /models/ner-en/deployment"])
def test_unfinished_bodies_leave_small_ones_in(narrow: Server, route: str) -> None:
    with little_room(narrow, route):
        answer = narrow.client.post("/ner", content=LARGE, headers=JSON)
        assert (answer.json()["code"], answer.headers["Retry-After"]) == ("bodies_full", "1")
        assert "NERVE_MAX_BODIES_BYTES" in answer.json()["error"]
        assert narrow.ner("IBM " + "x" * 60_000)["entities"]
    until(lambda: status_of(narrow, LARGE) == 200)


def test_a_large_line_that_has_no_room_is_answered_in_its_place(narrow: Server) -> None:
    large = lines_of([{"text": "IBM", "more": "x" * 700_000}])
    with little_room(narrow), connected(narrow) as sock:
        sock.sendall(head("Transfer-Encoding: chunked"))
        for part in (large, lines_of([{"text": "IBM"}]), b""):
            sock.sendall(chunk(part))
        results, last = read(received(sock))
    assert [result.get("code") for result in results] == ["bodies_full", None]
    assert last["done"]


def test_large_lines_give_their_room_back(narrow: Server) -> None:
    until(lambda: status_of(narrow, b" " * 900_000) == 400)
    line = lines_of([{"id": "x" * 400_000}])  # its answer is an error, which needs no network
    with connected(narrow) as sock, sock.makefile("rb") as answer:
        sock.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(6):
            sock.sendall(chunk(line))
            skip_to(answer, b'"line"')
        sock.sendall(chunk(b""))
        assert b'"done":true' in answer.read()


@pytest.mark.parametrize("route", ["POST /ner", "PUT /models/ner-en/deployment"])
def test_a_body_must_have_come_in_time_where_a_request_may_take_for_ever(hasty: Server, route: str) -> None:
    with begun(hasty, route, 100_000) as sock:
        answer = sock.recv(1_000)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"NERVE_BODY_TIMEOUT" in answer


@pytest.mark.parametrize(("begun", "code"), [(b'{"te', "stream_idle"), (b" " * 500_000, "line_timeout")])
def test_a_stream_on_which_nothing_comes_ends(hasty: Server, begun: bytes, code: str) -> None:
    def logged() -> int:
        return hasty.log.read_text().count("POST /ner/stream 499 ")

    before = logged()
    with connected(hasty) as sock, sock.makefile("rb") as answer:
        sock.sendall(head("Transfer-Encoding: chunked") + chunk(lines_of([{"text": "IBM"}]) + begun))
        last = json.loads(skip_to(answer, b'"done"'))
        assert (last["done"], last["code"], last["line"]) == (False, code, 1)
    until(lambda: logged() == before + 1)


def test_a_full_disk_ends_a_stream_as_a_full_spool_does(narrow: Server) -> None:
    wrong = lines_of([{"id": "x" * 50_000}])  # its answer is as large, and needs no network
    limits = resource.prlimit(narrow.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(narrow.process.pid, resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with connected(narrow) as sock:
            sock.sendall(head(f"Content-Length: {400 * len(wrong)}") + wrong * 400)
            results, last = read(received(sock))
    finally:
        resource.prlimit(narrow.process.pid, resource.RLIMIT_FSIZE, limits)
    assert (last["done"], last["code"]) == (False, "spool_full")
    assert "File too large" in last["error"]
    assert 0 < last["failed"] == last["records"] == last["line"] == len(results) < 400
    until(lambda: " POST /ner/stream 500 " in narrow.log.read_text())
    assert narrow.metric("nerve_requests_total", route="/ner/stream", status="500") == 1
    assert "Traceback" not in narrow.log.read_text()
