"""What goes over one connection: answers whole and in order, and limits of size and time."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from app.metrics import Metrics
from app.server.connections import Connections, Limits
from app.server.protocol import STATE, Protocol
from tests.servers import sample_sum

LARGE = 3_000_000
LATE = threading.Event()
METRICS = Metrics()
SMALL = Limits(head_bytes=4096, target_bytes=512, pipelined=5, body_seconds=1, answer_seconds=1, every=0.05)
SHORT = Limits(head_seconds=1, body_seconds=0.3, answer_seconds=0.3, exchange_seconds=0.3, every=0.05)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with as many bytes as the path says.

    `/late` waits between head and body, `/read` answers with the size of the body, `/echo` sends back what
    comes as it comes, `/early` answers before it reads, and `/much` sends 300 MB in pieces.
    """
    path = scope["path"].strip("/")
    if path == "read":
        with contextlib.suppress(Exception):
            path = str(len(await Request(scope, receive).body()))
    if path == "echo":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})
        return
    if path == "much":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * LARGE, "more_body": True})
        return
    size = int(path) if path.isdigit() else 3
    head = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    while path == "late" and not LATE.is_set():
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"x" * size})


@contextlib.contextmanager
def listening(limits: Limits, most: int = 1000) -> Iterator[tuple[int, uvicorn.Server]]:
    """The port of a server that speaks our protocol, and the server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Connections]]:
        connections = Connections(most, limits, METRICS)
        watch = asyncio.create_task(connections.watch())
        yield {STATE: connections}
        watch.cancel()

    whole = FastAPI(lifespan=lifespan)
    whole.mount("/", app)
    server = uvicorn.Server(uvicorn.Config(whole, port=0, http=Protocol, ws="none", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.001)
    yield server.servers[0].sockets[0].getsockname()[1], server
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server with the limits of size and time that all have."""
    with listening(Limits(every=0.05)) as (port, _):
        yield port


@pytest.fixture(scope="module")
def narrow() -> Iterator[int]:
    """Of a server with limits of size that are small."""
    with listening(SMALL) as (port, _):
        yield port


@pytest.fixture(scope="module")
def hasty() -> Iterator[int]:
    """Of a server with limits of time that are short."""
    with listening(SHORT) as (port, _):
        yield port


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


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    data = b""
    while received := connection.recv(1 << 20):
        data += received
    return data


def refusal(data: bytes) -> tuple[int, str]:
    """The status and the code of an answer that is the connection's last and has our error body."""
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
    about = json.loads(body)
    assert fields["connection"] == "close"
    assert int(fields["content-length"]) == len(body)
    assert fields["x-request-id"] == about["request_id"]
    assert about["error"]
    assert ("retry-after" in fields) == ("retry_after" in about)
    return int(head.split()[1]), about["code"]


def answered(port: int, data: bytes) -> tuple[int, str]:
    """The refusal that these bytes meet."""
    with connected(port) as connection:
        connection.sendall(data)
        return refusal(all_of(connection))


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


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /5 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"GET /5 HTTP/1.1\r\nHost: x\r\nbad\0name: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_in_our_format(
    port: int, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = sample_sum(METRICS.exposition().decode(), "nerve_requests_total", {"status": "400"})
    with caplog.at_level("INFO"):
        assert answered(port, data) == (400, "invalid_http")
    assert (
        sample_sum(METRICS.exposition().decode(), "nerve_requests_total", {"status": "400"}) == before + 1
    )
    said = [record for record in caplog.records if record.levelname != "INFO"]
    assert said == []
    assert re.search(r"refused 400 invalid_http [0-9a-f]{32}", caplog.text)


def test_what_is_no_http_loses_no_answer_that_is_due(port: int) -> None:
    LATE.clear()
    with connected(port) as connection:
        connection.sendall(ask("late") + ask("7") + b"garbage\r\n\r\n")
        assert connection.recv(1 << 16).endswith(b"\r\n\r\n")
        LATE.set()
        body, rest = body_of(connection, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
        assert body == b"xxx"
        body, rest = body_of(connection, rest)
        assert body == b"x" * 7
        assert refusal(rest + all_of(connection)) == (400, "invalid_http")


@pytest.mark.parametrize("other", ["websocket", "h2c", "TLS/1.0"])
def test_a_caller_that_would_rather_speak_something_else_is_answered(port: int, other: str) -> None:
    upgrade = ask("5", f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {other}\r\n")
    change = f"Connection: Upgrade\r\nUpgrade: {other}\r\n"
    sized = f"POST /read HTTP/1.1\r\nHost: x\r\n{change}Content-Length: 4\r\n\r\nbody"
    chunked = f"POST /read HTTP/1.1\r\n{change}Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n0\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(upgrade * 2 + f"{sized}{chunked}".encode() + ask("6"))
        rest = b""
        for size in (5, 5, 4, 2, 6):
            found, rest = body_of(connection, rest)
            assert len(found) == size


def endless(start: bytes, more: bytes) -> Callable[[socket.socket], None]:
    """Something that never ends is sent until it is refused, or for much longer than that should take."""

    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        with contextlib.suppress(OSError):
            for _ in range(200_000 // len(more)):
                connection.sendall(more)

    return send


@pytest.mark.parametrize(
    ("start", "more", "status", "code"),
    [
        (b"GET /5 HTTP/1.1\r\nHost: x\r\n", b"name: " + b"x" * 1000 + b"\r\n", 431, "head_too_large"),
        (b"GET /5 HTTP/1.1\r\nHost: x\r\nname: ", b"x" * 1000, 431, "head_too_large"),
        (b"GET /5 HTTP/1.1\r\nHost: x\r\n", b"x" * 1000, 431, "head_too_large"),
        (b"GET /", b"x" * 1000, 414, "uri_too_long"),
        (b"GET /5?", b"x" * 1000, 414, "uri_too_long"),
        (
            b"POST /read HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;",
            b"x" * 1000,
            431,
            "head_too_large",
        ),
        (
            b"POST /read HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"name: " + b"x" * 1000 + b"\r\n",
            431,
            "head_too_large",
        ),
    ],
)
def test_what_has_no_end_is_refused_while_it_arrives(
    narrow: int, start: bytes, more: bytes, status: int, code: str
) -> None:
    with connected(narrow) as connection:
        endless(start, more)(connection)
        assert refusal(all_of(connection)) == (status, code)


def test_the_limits_of_a_head_are_64_and_8_kib(port: int) -> None:
    def head(size: int) -> bytes:
        start, end = b"GET /5 HTTP/1.1\r\nHost: x\r\nname: ", b"\r\nConnection: close\r\n\r\n"
        return start + b"x" * (size - len(start) - len(end)) + end

    for size in (1000, 60_000, 65_535):
        with connected(port) as connection:
            connection.sendall(head(size))
            assert all_of(connection).endswith(b"xxxxx")
    assert answered(port, head(65_537)) == (431, "head_too_large")
    with connected(port) as connection:
        connection.sendall(ask("5?" + "x" * 8_189))  # with the slash, 8192
        assert body_of(connection)[0] == b"xxxxx"
    assert answered(port, ask("5?" + "x" * 8_190)) == (414, "uri_too_long")


def test_a_body_in_small_chunks_is_no_large_head(narrow: int) -> None:
    with connected(narrow) as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"1;note=none\r\nx\r\n" * 100)
        connection.sendall(b"0\r\nTrailer: some\r\n\r\n")
        assert len(body_of(connection)[0]) == 2000


def test_too_many_requests_on_one_connection_wait_for_nobody(narrow: int) -> None:
    with connected(narrow) as connection:
        connection.sendall(ask("9") * 100)
        data = all_of(connection)
    answers = data.split(b"HTTP/1.1 200 OK")[1:]
    assert 1 <= len(answers) <= 10
    assert refusal(data[data.rindex(b"HTTP/1.1") :]) == (429, "too_many_pipelined")


def test_an_early_answer_is_read_by_a_caller_that_still_sends(port: int) -> None:
    head = b"POST /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10000000\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(head + b"x" * 1_000_000)
        assert all_of(connection).endswith(b"\r\n\r\nxxx")


# time


def slowly(connection: socket.socket, data: bytes = b"x") -> float:
    """Send again and again until the connection is answered or closed; the seconds that took."""
    started = time.monotonic()
    connection.settimeout(0.02)
    while time.monotonic() < started + 10:
        try:
            connection.sendall(data)
            if connection.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    connection.settimeout(20)
    return time.monotonic() - started


def test_a_connection_that_says_nothing_is_closed(hasty: int) -> None:
    with connected(hasty) as connection:
        assert all_of(connection) == b""


def test_a_head_that_dribbles_is_refused(hasty: int) -> None:
    with connected(hasty) as connection:
        connection.sendall(b"GET /5 HTTP/1.1\r\nname: ")
        assert slowly(connection) < 5
        assert refusal(all_of(connection)) == (408, "request_too_slow")


def test_a_connection_is_not_kept_by_blank_lines(hasty: int) -> None:
    with connected(hasty) as connection:
        connection.sendall(ask("5"))
        body_of(connection)
        assert slowly(connection, b"\r\n") < 5


def test_a_body_that_dribbles_is_refused(hasty: int) -> None:
    with connected(hasty) as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert slowly(connection) < 5
        assert refusal(all_of(connection)) == (408, "request_too_slow")


def test_a_body_is_given_the_time_that_its_size_takes(narrow: int) -> None:
    body = b"x" * 20_000
    with connected(narrow) as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 240000\r\n\r\n")
        for _ in range(12):  # longer in all than a body may dribble
            connection.sendall(body)
            time.sleep(0.1)
        assert len(body_of(connection)[0]) == 240_000


def test_the_rest_of_a_body_that_was_answered_ends(hasty: int) -> None:
    with connected(hasty) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert body_of(connection)[0] == b"xxx"
        assert slowly(connection) < 5


@pytest.mark.parametrize("path", ["100000000", "much"])
def test_an_answer_that_nobody_reads_is_dropped(hasty: int, path: str) -> None:
    with connected(hasty) as connection:
        connection.sendall(ask(path))
        time.sleep(1.2)
        size = 0
        with contextlib.suppress(ConnectionError):
            while received := connection.recv(1 << 20):
                size += len(received)
        assert size < 100_000_000  # it was cut off


def test_a_caller_that_reads_slowly_gets_all(narrow: int) -> None:
    with connected(narrow) as connection:
        connection.sendall(ask("40000000", "Connection: close\r\n"))
        size = 0
        while received := connection.recv(1 << 20):
            size += len(received)
            time.sleep(0.03)
        assert size > 40_000_000


def exchange(connection: socket.socket) -> None:
    connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")


def test_an_exchange_may_pause_for_longer_than_a_body(narrow: int) -> None:
    with connected(narrow) as connection:
        exchange(connection)
        time.sleep(1.3)
        connection.sendall(b"3\r\ntwo\r\n0\r\n\r\n")
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(1 << 16)
    assert b"one" in data
    assert b"two" in data


def test_an_exchange_does_not_pause_for_ever(hasty: int) -> None:
    with connected(hasty) as connection:
        exchange(connection)
        data = all_of(connection)
    assert b"one" in data
    assert not data.endswith(b"0\r\n\r\n")


# number


def test_beyond_the_limit_those_that_wait_make_room_and_then_others_are_refused() -> None:
    LATE.clear()
    with listening(Limits(every=0.05), most=3) as (port, _), contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(connected(port)) for _ in range(3))
        for connection in (second, first):
            connection.sendall(ask("5"))
            body_of(connection)
        third.sendall(ask("late"))
        assert third.recv(1 << 16)
        fourth = stack.enter_context(connected(port))
        fourth.sendall(ask("late"))
        assert fourth.recv(1 << 16)
        assert second.recv(1) == b""  # it had waited longest
        fifth = stack.enter_context(connected(port))
        fifth.sendall(ask("late"))
        assert fifth.recv(1 << 16)
        assert first.recv(1) == b""
        for _ in range(50):
            assert answered(port, ask("5")) == (503, "too_many_connections")
        LATE.set()
        for connection in (third, fourth, fifth):
            assert connection.recv(1 << 16) == b"xxx"
        with connected(port) as connection:
            connection.sendall(ask("5"))
            assert body_of(connection)[0] == b"xxxxx"


# the end


def test_at_the_end_a_request_that_is_on_its_way_is_answered() -> None:
    with listening(Limits(every=0.05)) as (port, server), contextlib.ExitStack() as stack:
        used, fresh, unused = (stack.enter_context(connected(port)) for _ in range(3))
        used.sendall(ask("5"))
        body_of(used)
        server.should_exit = True
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                with connected(port):
                    time.sleep(0.01)
        for connection in (used, fresh):
            connection.sendall(ask("5"))
            answer = all_of(connection)
            assert answer.endswith(b"xxxxx")
            assert b"connection: close\r\n" in answer
        assert all_of(unused) == b""
