"""Connections that say too much, too little, too slowly, or nothing."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.attack.harness import MB, Target, assert_quiet
from tests.attack.raw import Answer, assert_ours, connect, head, many, post, read, read_from, reset, send
from tests.deployments import put
from tests.servers import Server, serving, until
from tests.tiny import write_tiny_version

pytestmark = pytest.mark.attack

BODY = b'{"text": "Angela Merkel visited IBM in New York."}'
GOOD = post("/ner", BODY)


# too much


def endless(begin: bytes, piece: bytes, megabytes: int = 40) -> Iterator[bytes]:
    yield begin
    block = piece * (MB // len(piece))
    for _ in range(megabytes):
        yield block


HEADS = {
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n", 431),
    "headers of one name and no value": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"a:\r\n", 431),
    "one header": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a", 431),
    "a header's name": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"a", 431),
    "a cookie": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: a=", b"b; ", 431),
    "folded lines": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n", b" b\r\n", 431),
    "a path": (b"GET /", b"a", 414),
    "a query": (b"POST /ner?labels=", b"PER,", 414),
    "escapes in a path": (b"GET /models/", b"%41", 414),
    "a method": (b"", b"A", 400),
    "a version": (b"GET / HTTP/1.", b"1", 400),
    "blank lines": (b"", b"\r\n", 400),
    "a host": (b"GET / HTTP/1.1\r\nHost: ", b"a", 431),
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_without_end_is_cut_off(real: Target, what: str) -> None:
    begin, piece, status = HEADS[what]
    answer = real.withstands(lambda: send(real.server, endless(begin, piece)), memory=60 * MB)
    if answer.status:  # a reset may overtake the answer to a caller who goes on sending
        assert_ours(answer, status, 400, 431)


@pytest.mark.parametrize(
    ("path", "line", "status"),
    [
        ("/healthz", "X-A: " + "a" * 70_000, 431),
        ("/healthz", "\r\n".join(f"X-{n}: {'a' * 50}" for n in range(1_300)), 431),
        ("/" + "a" * 9_000, "X-A: a", 414),
        ("/healthz?" + "a=b&" * 3_000, "X-A: a", 414),
    ],
    ids=["a header", "headers", "a path", "a query"],
)
def test_a_head_over_the_limit_is_refused_with_the_reason(
    real: Target, path: str, line: str, status: int
) -> None:
    assert_ours(real.withstands(lambda: send(real.server, head("GET", path, line)), memory=30 * MB), status)


def test_a_head_below_the_limits_is_answered(real: Target) -> None:
    lines = [f"X-{number}: {'a' * 400}" for number in range(100)]
    assert send(real.server, head("GET", "/healthz?" + "a=b&" * 1_500, *lines)).status == 200


MALFORMED = {
    "noise": bytes(range(128, 256)) * 10 + b"\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"a" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "a zero in a header": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
    "a line feed in a header": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n",
    "a blank before the colon": b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
    "a method that is none": b"G=T /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    "a chunk size that is none": head("POST", "/ner", "Content-Type: application/json")[:-2]
    + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk size beyond 64 bits": head("POST", "/ner", "Content-Type: application/json")[:-2]
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"f" * 40
    + b"\r\n",
    "a letter in the length": head("POST", "/ner", "Content-Length: 1a"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_http_is_answered_in_our_format(real: Target, what: str) -> None:
    def attack() -> Answer:
        with connect(real.server, 15) as sock:
            sock.sendall(MALFORMED[what])
            return read(sock)

    assert_ours(real.withstands(attack, memory=30 * MB), 400, 404, 431, 505)


# too slowly


def test_heads_and_bodies_that_dribble_are_cut_off(real: Target) -> None:
    """A byte a second for as long as the server lets them; each is closed, and others feel nothing."""
    begun = {
        "a head": (head("GET", "/healthz")[:-2], b"a"),
        "a name": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X"),
        "a target": (b"GET /", b"a"),
        "nothing": (b"", b""),
        "a body": (post("/ner", b"x" * 10_000, "X-Request-Timeout-Ms: 3000")[:-9_900], b"x"),
        "a chunk": (
            head("POST", "/ner", "Content-Type: application/json", "X-Request-Timeout-Ms: 3000")[:-2]
            + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n",
            b"x",
        ),
    }
    patience = 30.0

    def attack() -> list[str]:
        with ExitStack() as stack:
            socks: dict[socket.socket, str] = {}
            for what, (first, _) in begun.items():
                for _ in range(10):
                    sock = stack.enter_context(connect(real.server))
                    sock.sendall(first)
                    sock.setblocking(False)
                    socks[sock] = what
            end = time.monotonic() + patience
            while socks and time.monotonic() < end:
                time.sleep(1)
                for sock, what in list(socks.items()):
                    if _closed(sock, begun[what][1]):
                        del socks[sock]
            return sorted(set(socks.values()))

    open_still = real.withstands(attack, memory=50 * MB)
    assert not open_still, f"after {patience:.0f} s the server still waits for {open_still}"


def _closed(sock: socket.socket, dribble: bytes) -> bool:
    """Say whether the other side has closed a connection; else send some more."""
    try:
        while data := sock.recv(65_536):
            if b"\r\n\r\n" in data and b"connection: close" not in data.lower():
                return True  # it was answered, which is an end too
        return True
    except BlockingIOError:
        pass
    except OSError:
        return True
    try:
        sock.sendall(dribble)
    except OSError:
        return True
    return False


def test_answers_that_nobody_reads_are_not_piled_up(real: Target) -> None:
    """Requests one after the other on connections whose callers never read."""
    flood = head("GET", "/openapi.json") * 3_000

    def attack() -> None:
        with many(real.server, 5) as socks:
            end = time.monotonic() + 2
            for sock in socks:
                sock.setblocking(False)
            left = dict.fromkeys(socks, flood)
            while time.monotonic() < end:
                for sock in socks:
                    with suppress(OSError):
                        left[sock] = left[sock][sock.send(left[sock]) :]
                time.sleep(0.02)

    real.withstands(attack, memory=80 * MB)


def test_a_pipelined_flood_gives_others_their_turn(real: Target) -> None:
    def attack() -> list[int]:
        requests = head("GET", "/healthz") * 2_000 + GOOD * 200
        with connect(real.server, 60) as sock, sock.makefile("rb") as file:

            def flood() -> None:
                with suppress(OSError):
                    sock.sendall(requests)

            sender = threading.Thread(target=flood)
            sender.start()
            statuses = list(iter(lambda: read_from(file).status, 0))
            reset(sock)
            sender.join()
        return statuses

    statuses = real.withstands(attack, memory=80 * MB)
    assert statuses[:10] == [200] * 10
    assert set(statuses) <= {200, 429}, statuses


# hang-ups


def test_a_caller_may_hang_up_whenever_he_likes(real: Target) -> None:
    """Within the head, within the body, before the answer, within it, and within the next request."""
    long = post("/ner", b'{"text": "%s"}' % (b"IBM visited Angela Merkel in New York. " * 300))
    listed = head("GET", "/models")
    cuts = [1, 10, 40, 100, len(GOOD) - len(BODY), len(GOOD) - 10, len(GOOD)]

    def attack() -> None:
        for whole in (GOOD, long, listed, GOOD + GOOD[:30]):
            for cut in (*cuts, len(whole) - 1, len(whole)):
                for end in (socket.socket.close, reset):
                    for pause in (0.0, 0.003):
                        sock = connect(real.server)
                        with suppress(OSError):
                            sock.sendall(whole[:cut])
                            time.sleep(pause)
                            if pause and cut >= len(whole):
                                sock.recv(20)
                        end(sock)

    real.withstands(attack, memory=60 * MB)


def test_a_caller_may_close_one_direction(real: Target) -> None:
    """After the request the answer may still come; within it, the connection is closed."""
    for request, statuses in ((GOOD, {0, 200}), (GOOD[:-5], {0, 400}), (GOOD[:30], {0, 400})):

        def attack(request: bytes = request) -> int:
            with connect(real.server, 15) as sock:
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                return read(sock).status

        assert real.withstands(attack, memory=30 * MB) in statuses


# too many


@contextmanager
def soft_limit(which: int, value: int) -> Iterator[None]:
    """A limit of this process that the processes which it starts inherit."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


@contextmanager
def few_files(folder: Path, count: int = 256) -> Iterator[Server]:
    """A server of two versions that may open only so many files."""
    for version in (1, 2):
        write_tiny_version(folder / "models", version=version)
    with ExitStack() as stack:
        with soft_limit(resource.RLIMIT_NOFILE, count):
            server = stack.enter_context(serving(folder / "models", folder / "log"))
        yield server


def test_more_connections_than_files_leave_the_server_its_own(tmp_path: Path) -> None:
    """What has a connection is answered; who comes too late is told so; the state can be written."""
    with few_files(tmp_path) as server:
        assert put(server, "ner-en", stable=1).status_code == 200
        with many(server, 300) as socks:
            for sock in socks:
                with suppress(OSError):
                    sock.sendall(b"POST /ner HTTP/1.1\r\nHost: a\r\n")
            assert put(server, "ner-en", stable=2).status_code == 200
            assert [one["name"] for one in server.client.get("/models").json()["models"]] == ["ner-en"]
            assert server.ner("IBM")["version"] == 2
            late = send(server, GOOD)
            assert late.status in (200, 503), f"who came late got {late.status or 'no answer'}"
            if late.status == 503:
                assert_ours(late, 503)
                assert int(late.headers["retry-after"]) >= 1
            assert server.process.poll() is None
        until(lambda: _answers(server), seconds=30)
        assert_quiet(server.log)
        assert server.log.stat().st_size < MB, "the log was flooded"


def _answers(server: Server) -> bool:
    try:
        with server.fresh_client() as client:
            return client.post(
                "/ner", content=BODY, headers={"Content-Type": "application/json"}
            ).is_success
    except httpx.TransportError:
        return False


def test_unfinished_bodies_have_one_budget(real: Target) -> None:
    """A hundred bodies of eight megabytes but one byte; together they have at most 256 MiB."""
    request = post("/ner", b" " * 8_388_600)[:-1]

    def attack() -> list[int]:
        with many(real.server, 100) as socks:
            for sock in socks:
                sock.setblocking(False)
            left = dict.fromkeys(socks, memoryview(request))
            end = time.monotonic() + 6
            while any(left.values()) and time.monotonic() < end:
                for sock in socks:
                    with suppress(OSError):
                        if left[sock]:
                            left[sock] = left[sock][sock.send(left[sock]) :]
            time.sleep(0.5)
            statuses = []
            for sock in socks:
                with suppress(OSError):
                    statuses.append(int(sock.recv(12).split()[1]))
            return statuses

    # They send as fast as the loopback is, and take a core of two for themselves.
    refused = real.withstands(attack, wait=6, memory=450 * MB)
    assert set(refused) <= {408, 413, 429, 503}, refused
