"""A stream both ways at once: a real server, and clients that read early, late or never."""

import asyncio
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.answers import spans
from tests.app.api.streams import (
    LARGE,
    NDJSON,
    answers,
    ask,
    chunk,
    connected,
    head,
    lines_of,
    read,
    received,
    skip_head,
    skip_to,
    spooled,
)
from tests.deployments import put
from tests.servers import Server, serving, until
from tests.tiny import POISON, SPANS, TEXT, write_tiny_version


def test_texts_and_entities_are_counted(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log") as server:
        answers(server, lines_of([{"text": TEXT}, {"text": ""}, {"text": TEXT}]))
        assert server.metric("nerve_texts_total", model="ner-en", version="1") == 2 + 1
        assert server.metric("nerve_entities_total", label="PER") == 2
        assert server.metric("nerve_entity_score_count", label="PER") == 2
        until(lambda: server.metric("nerve_requests_total", route="/ner/stream", version="1", status="200"))
        assert f" 3 texts {2 * len(TEXT)} chars " in server.log.read_text()


# clients


def test_a_client_that_sends_all_it_has_before_it_reads(server: Server) -> None:
    """20 MB, more than all buffers on the way hold together, and as much comes back."""
    with connected(server) as sock:
        sock.sendall(head(f"Content-Length: {2_000 * len(LARGE)}"))
        sock.sendall(LARGE * 2_000)
        results, last = read(received(sock))
    assert last == {"done": True, "records": 2_000, "failed": 0, "line": 2_000}
    assert all(spans(result) == [(0, 10_007, "LOC")] for result in results)


def test_a_line_is_answered_before_the_next_is_sent(server: Server) -> None:
    with connected(server) as sock, sock.makefile("rb") as answer:
        sock.sendall(head("Transfer-Encoding: chunked"))
        skip_head(answer)
        for number in range(20):
            line = lines_of([{"text": TEXT, "id": number}])
            for piece in (line[:10], line[10:]):
                sock.sendall(chunk(piece))
            size = int(answer.readline(), 16)
            result = json.loads(answer.read(size))
            assert (result["id"], spans(result)) == (number, SPANS)
            assert answer.readline() == b"\r\n"
        sock.sendall(b"0\r\n\r\n")
        assert b'"done":true' in answer.read()


def test_a_client_of_both_directions_at_once(server: Server) -> None:
    """Whatever is sent waits for the answer to what was sent before."""

    async def talk() -> list[Any]:
        answered: asyncio.Queue[Any] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            for number in range(50):
                yield lines_of([{"text": TEXT, "id": number}])
                assert await answered.get() == number

        results = []
        async with aiohttp.ClientSession() as session:
            url = f"{server.url}/ner/stream"
            async with session.post(url, data=body(), headers=NDJSON) as response:
                assert response.status == 200
                async for line in response.content:
                    results.append(json.loads(line))
                    await answered.put(results[-1].get("id"))
        return results

    results = asyncio.run(talk())
    assert [result["id"] for result in results[:-1]] == list(range(50))
    assert results[-1]["done"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(server: Server) -> None:
    """From a pipe: chunked, and it waits for `100 Continue`."""
    command = ["curl", "-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: application/x-ndjson"]
    body = lines_of([{"text": TEXT, "id": number} for number in range(3_000)])
    for more in ([], ["-H", "Expect: 100-continue", "--expect100-timeout", "100"]):
        run = subprocess.run(
            [*command, *more, f"{server.url}/ner/stream"], input=body, capture_output=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        results, last = read(run.stdout)
        assert [result["id"] for result in results] == list(range(3_000))
        assert last["done"]


def test_a_version_that_keeps_failing_ends_the_stream(tmp_path: Path) -> None:
    """Who goes on where it says gets a new session, and is past what failed."""
    write_tiny_version(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log") as server:
        body = lines_of([{"text": POISON}] * 32 + [{"text": TEXT}] * 1_000)
        results, last = read(ask(server, body).content)
        assert (last["done"], last["code"], last["records"]) == (False, "inference_failed", 32)
        assert last["error"].endswith("takes its place; go on after line 32")
        assert {result["code"] for result in results} == {"inference_failed"}
        assert spans(answers(server, lines_of([{"text": TEXT}]))[0]) == SPANS


# what wears a server down


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that keeps 8 MB of a stream's answers, and takes texts of 20,000 characters."""
    write_tiny_version(tmp_path / "models")
    (tmp_path / "spool").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spool"))
    limits: dict[str, Any] = {
        "stream_spool_bytes": 8_000_000,
        "max_text_chars": 20_000,
        "max_body_bytes": 1_000,
    }
    with serving(tmp_path / "models", tmp_path / "log", **limits) as server:
        yield server


def test_texts_and_lines_that_are_too_long(small: Server) -> None:
    long = [b'{"text": "%s", "id": 7}\n' % (b"x" * size) for size in (20_001, 900_000, 310_000)]
    body = b'{"text": "IBM"}\n'.join([b"", *long, long[1].strip()])
    results, last = read(ask(small, body).content)
    assert (last["records"], last["failed"], last["line"]) == (8, 4, 8)
    assert [result.get("code") for result in results[::2]] == [None] * 4
    assert [result["code"] for result in results[1::2]] == ["text_too_long", *["line_too_long"] * 3]
    assert [result.get("id") for result in results[1::2]] == [7, None, None, None]


def test_a_client_that_never_reads(small: Server) -> None:
    """Its answers fill the spool, then no more are made; what it sends is taken and thrown away."""
    answers(small, LARGE * 1_000)
    process = psutil.Process(small.process.pid)
    before, most = process.memory_info().rss, 0
    with connected(small) as sock:
        sock.sendall(head("Transfer-Encoding: chunked"))
        for _ in range(80):
            sock.sendall(chunk(LARGE * 50))
            most = max(most, spooled(small) or 0)
        assert 7_000_000 < most <= 8_000_000
        assert process.memory_info().rss - before < 6_000_000
        sock.sendall(chunk(b""))
        results, last = read(received(sock))
    assert (last["done"], last["code"]) == (False, "spool_full")
    assert "NERVE_STREAM_SPOOL_BYTES" in last["error"]
    assert last["error"].endswith(f"; go on after line {last['line']}")
    assert 800 < last["records"] == last["line"] == len(results) < 4_000
    assert all(spans(result) == [(0, 10_007, "LOC")] for result in results)
    until(lambda: spooled(small) is None)


def test_a_client_that_reads_late_is_waited_for(small: Server) -> None:
    """More answers than the spool holds: it is sent no faster than it reads."""
    with connected(small) as sock:
        whole = head(f"Content-Length: {4_000 * len(LARGE)}") + LARGE * 4_000
        sender = threading.Thread(target=sock.sendall, args=(whole,))
        sender.start()
        until(lambda: (spooled(small) or 0) > 7_500_000)
        assert sender.is_alive()
        results, last = read(received(sock))
        sender.join()
    assert last == {"done": True, "records": 4_000, "failed": 0, "line": 4_000}
    assert len(results) == 4_000


def test_who_hangs_up_leaves_nothing(small: Server) -> None:
    with connected(small) as sock:
        sock.sendall(head("Transfer-Encoding: chunked") + chunk(LARGE * 1_000))
        until(lambda: spooled(small))
        assert small.metric("nerve_requests_in_flight") == 2
    until(lambda: small.metric("nerve_requests_in_flight") == 1)
    assert spooled(small) is None
    until(lambda: small.metric("nerve_queue_tokens") == 0)
    until(lambda: small.metric("nerve_requests_total", route="/ner/stream", status="499") == 1)


def test_a_swap_mixes_no_versions_in_a_stream(tmp_path: Path) -> None:
    models, line = tmp_path / "models", lines_of([{"text": "IBM"}])
    write_tiny_version(models)
    with (
        serving(models, tmp_path / "log") as server,
        connected(server) as sock,
        sock.makefile("rb") as answer,
    ):
        sock.sendall(head("Transfer-Encoding: chunked") + chunk(line))
        skip_to(answer, b'"ORG"')
        write_tiny_version(models, version=2, ibm="LOC")
        assert put(server, "ner-en", stable=2).status_code == 200
        assert server.ner("IBM")["entities"][0]["label"] == "LOC"
        sock.sendall(chunk(line) + chunk(b""))
        skip_to(answer, b'"ORG"')
        skip_to(answer, b'"done":true')
        assert read(ask(server, line).content)[0][0]["entities"][0]["label"] == "LOC"


def test_a_server_that_shuts_down_says_where_to_go_on(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models")
    line = lines_of([{"text": "IBM"}])
    with serving(tmp_path / "models", tmp_path / "log") as server:
        with connected(server) as sock, sock.makefile("rb") as answer:
            sock.sendall(head("Transfer-Encoding: chunked") + chunk(3 * line))
            for _ in range(3):
                skip_to(answer, b'"ORG"')
            server.process.send_signal(signal.SIGTERM)
            last = json.loads(skip_to(answer, b'"done"'))
            assert last == {
                "done": False,
                "error": "the server is shutting down; go on after line 3",
                "code": "shutting_down",
                "records": 3,
                "failed": 0,
                "line": 3,
            }
        assert server.process.wait(60) == 0
