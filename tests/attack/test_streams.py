"""Streams that are not read, not sent, or hold nothing."""

import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.app.api.streams import LARGE, chunk, lines_of, read
from tests.app.api.streams import head as stream_head
from tests.attack.harness import MB, Target, assert_quiet
from tests.attack.raw import connect, many, read_from
from tests.attack.raw import head as raw_head
from tests.attack.test_connections import soft_limit
from tests.servers import Server, serving, until
from tests.tiny import write_tiny_version

pytestmark = pytest.mark.attack

CHUNKED = stream_head("Transfer-Encoding: chunked")
PLAIN = raw_head("POST", "/ner/stream", "Content-Type: text/plain", "Transfer-Encoding: chunked")
END = b"0\r\n\r\n"


def flooded(server: Server, begin: bytes, pieces: Iterator[bytes], seconds: float = 20) -> bytes:
    """Send a stream, reading beside it; return the end of its answer."""
    with connect(server, 60) as sock:
        sock.sendall(begin)
        last = bytearray()

        def drain() -> None:
            with suppress(OSError):
                while block := sock.recv(1 << 20):
                    last.extend(block)
                    del last[:-20_000]

        reader = threading.Thread(target=drain)
        reader.start()
        end = time.monotonic() + seconds
        with suppress(OSError):
            for piece in pieces:
                sock.sendall(chunk(piece))
                if time.monotonic() > end:
                    break
            sock.sendall(END)
        reader.join(60)
        return bytes(last)


def zeros() -> Iterator[bytes]:
    """Lines of twelve megabytes, each an array that no line needs."""
    for _ in range(2):
        yield b'{"text":"IBM","x":[' + b"0," * (5 * MB + 900_000) + b"0]}\n"


HOSTILE = {
    "lines of zeros": (CHUNKED, zeros),
    "brackets": (CHUNKED, lambda: iter([b"[" * MB] * 11 + [b"\n"])),
    "an endless line": (PLAIN, lambda: iter([b"a" * MB] * 40)),
    "an endless line of JSON": (CHUNKED, lambda: iter([b'{"text":"', *[b"a" * MB] * 40])),
    "blank lines": (CHUNKED, lambda: iter([b"\n" * 300_000])),
    "lines that are no JSON": (CHUNKED, lambda: iter([b"x\n" * 10_000])),
    "ids of megabytes": (CHUNKED, lambda: iter([b'{"id":"%s","text":"a"}\n' % (b"i" * 10 * MB)] * 2)),
    "numbers of megabytes": (CHUNKED, lambda: iter([b'{"id":%s,"text":"a"}\n' % (b"9" * 10 * MB)] * 2)),
    "unknown fields": (
        CHUNKED,
        lambda: iter([b'{"text":"a"%s}\n' % b"".join(b',"%d":0' % n for n in range(500_000))]),
    ),
    "single bytes": (CHUNKED, lambda: (b"%c" % byte for byte in b'{"text":"IBM"}\n' * 500)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_stream_holds_up_nobody_and_stays_small(real: Target, what: str) -> None:
    begin, pieces = HOSTILE[what]
    started = time.monotonic()
    answer = real.withstands(lambda: flooded(real.server, begin, pieces()), memory=150 * MB)
    seconds = time.monotonic() - started
    assert seconds < 60, f"a few megabytes took the server {seconds:.0f} s"
    if b'"done":' in answer:
        assert b"internal_error" not in answer, answer[-500:]


def test_several_streams_of_long_lines_stay_small_together(real: Target) -> None:
    """A line may have twelve megabytes; eight streams hold one each that does not end."""

    def attack() -> None:
        with many(real.server, 8) as socks:
            for sock in socks:
                sock.sendall(CHUNKED)
            for _ in range(11):
                for sock in socks:
                    with suppress(OSError):
                        sock.sendall(chunk(b"a" * MB))
            time.sleep(0.3)

    real.withstands(attack, memory=300 * MB)


def test_streams_that_nobody_reads_go_to_disk_and_share_one_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four streams send without reading, and the server keeps only so much for all of them."""
    write_tiny_version(tmp_path / "models")
    (tmp_path / "spool").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spool"))
    budget = 8 * 2**20
    most = 0
    with serving(tmp_path / "models", tmp_path / "log", stream_spools_bytes=budget) as server:
        before = psutil.Process(server.process.pid).memory_info().rss
        with many(server, 4) as socks:
            for sock in socks:
                sock.sendall(CHUNKED)
                sock.setblocking(False)
            block = chunk(LARGE * 20)
            left = dict.fromkeys(socks, memoryview(block))
            end = time.monotonic() + 12
            while time.monotonic() < end and "POST /ner/stream" not in server.log.read_text():
                for sock in socks:
                    with suppress(OSError):
                        left[sock] = left[sock][sock.send(left[sock]) :] or memoryview(block)
                most = max(most, _spooled(server, tmp_path / "spool"))
                time.sleep(0.005)
            grown = psutil.Process(server.process.pid).memory_info().rss - before
        assert 0 < most <= budget + 4 * MB, f"{most} bytes were kept on disk, {budget} are allowed"
        assert grown <= 150 * MB, f"the server grew by {grown / MB:.0f} MB"
        until(lambda: _spooled(server, tmp_path / "spool") == 0, seconds=30)
        assert server.ner("IBM")["entities"]
        assert_quiet(server.log)


def _spooled(server: Server, folder: Path) -> int:
    """The bytes on disk that a server keeps for streams."""
    total = 0
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(str(folder)):
                total += 512 * link.stat().st_blocks
    return total


def test_a_spool_on_a_full_disk_ends_its_stream_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_version(tmp_path / "models")
    (tmp_path / "spool").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spool"))
    with ExitStack() as stack:
        with soft_limit(resource.RLIMIT_FSIZE, 2 * MB):  # no file may be larger, as on a full disk
            server = stack.enter_context(serving(tmp_path / "models", tmp_path / "log"))
        with connect(server, 60) as sock:
            sock.sendall(CHUNKED)
            sock.settimeout(3)
            with suppress(TimeoutError):
                for _ in range(20):
                    sock.sendall(chunk(LARGE * 100))
            sock.settimeout(60)
            with sock.makefile("rb") as file:
                answer = read_from(file)
        assert answer.status == 200
        _, last = read(answer.body)
        assert (last["done"], last["code"]) == (False, "spool_full"), last
        assert server.ner("IBM")["entities"]
        assert_quiet(server.log)


def test_streams_that_do_nothing_hold_up_nobody(real: Target) -> None:
    def attack() -> None:
        with many(real.server, 100) as socks:
            for number, sock in enumerate(socks):
                sock.sendall(CHUNKED)
                if number % 2:
                    sock.sendall(chunk(b'{"text":"IBM"'))
            time.sleep(1)

    real.withstands(attack, memory=60 * MB)


def test_a_stream_may_end_anywhere(real: Target) -> None:
    whole = CHUNKED + chunk(lines_of([{"text": "IBM", "id": 1}] * 50)) + END
    cuts = [5, 60, len(CHUNKED), len(CHUNKED) + 3, len(CHUNKED) + 500, len(whole) - 5, len(whole) - 1]

    def attack() -> None:
        for cut in cuts * 4:
            with many(real.server, 2) as socks:
                for sock in socks:
                    sock.sendall(whole[:cut])
                time.sleep(0.005)

    real.withstands(attack, memory=60 * MB)


def test_a_stream_of_wrong_lines_answers_each_of_them(tiny: Target) -> None:
    wrong = [b"{", b"[]", b"1", b'{"text":1}', b'{"text":"\\ud800"}', b'{"text":"a","id":[]}', b"\xff\xfe"]
    body = b"\n".join(wrong) + b"\n"
    with connect(tiny.server) as sock, sock.makefile("rb") as file:
        sock.sendall(CHUNKED + chunk(body) + END)
        results, last = read(read_from(file).body)
    assert [set(result) for result in results] == [{"error", "code", "line"}] * len(wrong), results
    assert last["failed"] == len(wrong)
    assert not any("a" * 100 in json.dumps(result) for result in results)
