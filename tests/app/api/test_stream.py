"""`POST /ner/stream` as its callers see it: a real server, and clients that read early, late or never."""

import asyncio
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import aiohttp
import httpx
import psutil
import pytest

from tests.answers import EVERYTHING, spans
from tests.deployments import put
from tests.servers import Server, serving, until
from tests.tiny import POISON, SPANS, TEXT, write_tiny_version

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


# answers


def test_a_line_a_record_in_order(server: Server) -> None:
    texts = [TEXT, "", "IBM", EVERYTHING, "x " * 100 + "IBM", "nothing here"] * 30
    response = ask(server, lines_of([{"text": text, "id": n} for n, text in enumerate(texts)]))
    assert response.headers["content-type"] == "application/x-ndjson"
    assert (response.headers["x-nerve-model"], response.headers["x-nerve-version"]) == ("ner-en", "1")
    results, last = read(response.content)
    assert last == {"done": True, "records": 180, "failed": 0, "line": 180}
    assert [result.pop("id") for result in results] == list(range(180))
    expected = {text: server.ner(text) for text in texts}
    for text, result in zip(texts, results, strict=True):
        assert result == {key: expected[text][key] for key in ("windows", "entities")}


def test_nothing_sent(server: Server) -> None:
    assert answers(server, b"") == []
    assert answers(server, b"\n \n\r\n\t\n") == []
    assert answers(server, b"", headers=PLAIN) == []


def test_a_text_a_line(server: Server) -> None:
    results = answers(server, f"{TEXT}\r\n\nIBM\u2028New York\rIBM\nIBM".encode(), headers=PLAIN)
    assert [spans(result) for result in results] == [
        SPANS,
        [],
        [(0, 3, "ORG"), (4, 12, "LOC"), (13, 16, "ORG")],
        [(0, 3, "ORG")],
    ]


def test_options(server: Server) -> None:
    body = lines_of([{"text": "ä IBM, perhaps"}])
    query = "?labels=PER,LOC&labels=ORG&min_score=0.9&offset_unit=byte&model=other&version=1&agreement=true"
    response = ask(server, body, query)
    assert response.headers["x-nerve-model"] == "other"
    (result,), _ = read(response.content)
    assert spans(result) == [(3, 6, "ORG")]
    assert result["entities"][0]["agreement"] is None
    assert spans(answers(server, body, "?labels=PER")[0]) == [(7, 14, "PER")]


@pytest.mark.parametrize(
    "written",
    [
        '"a"',
        '""',
        '"ä\\n"',
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1.10",
        "1e999",
        "0.12345678901234567890",
        "9" * 5000,
    ],
)
def test_an_id_comes_back_as_it_was_written(server: Server, written: str) -> None:
    response = ask(server, f'{{"text": "IBM", "id": {written}}}'.encode())
    assert response.text.startswith(f'{{"id":{written},"windows":1,')


def test_ends_of_lines(server: Server) -> None:
    """CR LF, empty lines, a mark at the start, none at the end, and characters that only look like ends."""
    texts = ["IBM", "New\u2028York", "IBM\u2029", "\x85IBM", "\rIBM", "\x0bIBM\x1c"]
    lines = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
    body = b"\xef\xbb\xbf" + b"\r\n\r\n  \n".join(lines)
    results = answers(server, body)
    assert [[e["text"] for e in r["entities"]] for r in results] == [
        *(["IBM"], ["New\u2028York"], ["IBM"], ["IBM"], ["IBM"], ["IBM"])
    ]
    with server.client.stream("POST", "/ner/stream", content=body, headers=NDJSON) as response:
        assert [json.loads(line) for line in response.iter_lines()][:-1] == results


def test_bad_lines_are_answered_in_their_place(server: Server) -> None:
    bad: list[tuple[bytes, str]] = [
        (b"{", "invalid_json"),
        (b'{"text": NaN}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"text": "a\tb"}', "invalid_json"),
        (b'{"text": "\xff"}', "invalid_utf8"),
        (b"[]", "invalid_request"),
        (b'"IBM"', "invalid_request"),
        (b"{}", "invalid_request"),
        (b'{"text": 5}', "invalid_request"),
        (b'{"text": null}', "invalid_request"),
        (b'{"text": "IBM", "labels": ["PER"]}', "invalid_request"),
        (b'{"text": "IBM", "id": [1]}', "invalid_request"),
        (b'{"text": "\\ud83d"}', "lone_surrogate"),
        (b'{"text": "IBM", "id": "\\ud83d"}', "lone_surrogate"),
    ]
    body = b'\n{"text": "IBM"}\n' + b"".join(line + b'\n{"text": "IBM", "lang": "en"}\n' for line, _ in bad)
    results, last = read(ask(server, body).content)
    assert last == {"done": True, "records": 1 + 2 * len(bad), "failed": len(bad), "line": 2 + 2 * len(bad)}
    assert all(spans(result) == [(0, 3, "ORG")] for result in results[::2])
    for number, ((_, code), result) in enumerate(zip(bad, results[1::2], strict=True)):
        assert set(result) == {"error", "code", "line"}
        assert (result["code"], result["line"]) == (code, 3 + 2 * number), result
    assert "labels: not a line's" in results[21]["error"]


def test_a_bad_line_has_its_id(server: Server) -> None:
    results, _ = read(ask(server, lines_of([{"id": "a"}, {"id": 1.5, "text": []}])).content)
    assert [(result["id"], result["code"]) for result in results] == [
        ("a", "invalid_request"),
        (1.5, "invalid_request"),
    ]


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", {}, 415, "unsupported_media_type"),
        ("", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        ("", NDJSON | {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ("", {"Content-Type": "text/plain; charset=latin-1"}, 415, "unsupported_media_type"),
        ("?offset_unit=inch", NDJSON, 422, "invalid_request"),
        ("?text=IBM", NDJSON, 422, "invalid_request"),
        ("?version=1&version=1", NDJSON, 422, "invalid_request"),
        ("?labels=CAT", NDJSON, 422, "unknown_label"),
        ("?model=none", NDJSON, 404, "unknown_model"),
        ("?version=9", NDJSON, 404, "unknown_version"),
    ],
)
def test_what_is_wrong_with_the_whole_is_an_error(
    server: Server, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    response = ask(server, gzip.compress(b'{"text": "IBM"}'), query, headers)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_it_is_documented(server: Server) -> None:
    route = server.client.get("/openapi.json").json()["paths"]["/ner/stream"]["post"]
    assert set(route["requestBody"]["content"]) == {"application/x-ndjson", "text/plain"}
    assert {"model", "offset_unit", "agreement"} <= {each["name"] for each in route["parameters"]}
    assert set(route["responses"]) == {"200", "404", "409", "415", "422", "503"}
    for side in (route["requestBody"], route["responses"]["200"]):
        for line in side["content"]["application/x-ndjson"]["example"].splitlines():
            json.loads(line)


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


def test_streams_share_a_queue_that_is_always_full(tmp_path: Path) -> None:
    """Each gets all its answers: who finds no room waits."""
    write_tiny_version(tmp_path / "models")
    body = lines_of([{"text": TEXT * 3, "id": number} for number in range(500)])
    with serving(tmp_path / "models", tmp_path / "log", max_queue_tokens=400) as server:
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(answers(server, body))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(results) for results in found] == [500] * 4
        for results in found:
            assert [result["id"] for result in results] == list(range(500))


def test_a_batch_that_fails_costs_only_the_text_that_it_fails_on(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models")
    texts = [TEXT] * 40 + [POISON] + [TEXT] * 40
    with serving(tmp_path / "models", tmp_path / "log") as server:
        results, last = read(ask(server, lines_of([{"text": text} for text in texts])).content)
        assert (last["done"], last["records"], last["failed"]) == (True, 81, 1)
        assert (results[40]["code"], results[40]["line"]) == ("inference_failed", 41)
        assert all(spans(result) == SPANS for result in results[:40] + results[41:])


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
