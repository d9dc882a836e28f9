"""What every request gets around it: an id, a line in the log, its metrics, and an answer to a crash."""

import asyncio
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware import RequestMiddleware
from app.metrics import Metrics
from tests.servers import Server, serving
from tests.tiny import TEXT

FIT = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def passed(
    app: ASGIApp, metrics: Metrics | None = None, headers: tuple[tuple[bytes, bytes], ...] = (), **more: Any
) -> list[Message]:
    """What is sent in answer to a request that passes through the middleware to an application."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/there", "headers": list(headers)} | more
    asyncio.run(RequestMiddleware(app, metrics or Metrics())(scope, receive, send))
    return sent


def id_of(message: Message) -> bytes:
    (found,) = [value for name, value in message["headers"] if name == b"x-request-id"]
    return bytes(found)


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """How many requests there were of each route and status."""
    samples = metrics.samples("nerve_requests_total")
    return {(one.labels["route"], one.labels["status"]): one.value for one in samples}


def in_flight(metrics: Metrics) -> float:
    (sample,) = metrics.samples("nerve_requests_in_flight")
    return sample.value


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("a secret of the text")


async def crash_late(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ZeroDivisionError("a secret of the text")


async def leave(scope: Scope, receive: Receive, send: Send) -> None:
    raise ClientDisconnect


# ids


@given(st.from_regex(FIT, fullmatch=True))
def test_an_id_that_is_fit_for_a_log_comes_back(sent: bytes) -> None:
    start, _ = passed(PlainTextResponse("fine"), headers=((b"x-request-id", sent),))
    assert id_of(start) == sent


@given(st.binary(max_size=200).filter(lambda sent: not FIT.fullmatch(sent)))
@example(b"")
@example(b"a" * 129)
@example(b"a\n")
def test_any_other_id_is_replaced(sent: bytes) -> None:
    start, _ = passed(PlainTextResponse("fine"), headers=((b"x-request-id", sent),))
    assert re.fullmatch(rb"[0-9a-f]{32}", id_of(start))


def test_a_request_keeps_its_own_id(server: Server) -> None:
    for path in ("/ner", "/healthz", "/nowhere"):
        answer = server.client.post(path, json={"text": "a"}, headers={"X-Request-Id": "mine-1.2:3"})
        assert answer.headers["X-Request-Id"] == "mine-1.2:3"


@pytest.mark.parametrize("unfit", ["", "a b", "x" * 129, "a\tb", "ä".encode()])
def test_an_id_that_is_unfit_for_a_log_is_replaced(server: Server, unfit: str | bytes) -> None:
    sent = unfit if isinstance(unfit, bytes) else unfit.encode()
    answer = server.client.post("/ner", json={"text": "a"}, headers=[(b"X-Request-Id", sent)])
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"].isalnum()


def test_every_request_without_one_gets_another_id(server: Server) -> None:
    ids = {server.client.get("/healthz").headers["X-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


# what goes wrong


def test_a_crash_is_answered_and_counted() -> None:
    metrics = Metrics()
    start, body = passed(crash, metrics)
    assert start["status"] == 500
    assert json.loads(body["body"])["request_id"] == id_of(start).decode()
    assert b"secret" not in body["body"]
    assert counted(metrics) == {("other", "500"): 1}


def test_a_crash_in_mid_answer_begins_no_second_one() -> None:
    metrics = Metrics()
    assert [message["type"] for message in passed(crash_late, metrics)] == ["http.response.start"]
    assert counted(metrics) == {("other", "200"): 1}


def test_a_request_that_is_cancelled_at_the_end_of_the_server_is_told_so() -> None:
    metrics, sent = Metrics(), list[Message]()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    async def serve() -> None:
        scope = {"type": "http", "method": "POST", "path": "/there", "headers": []}
        task = asyncio.create_task(RequestMiddleware(endless, metrics)(scope, send, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(serve())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["code"] == "shutting_down"
    assert counted(metrics) == {("other", "503"): 1}


def test_who_left_is_sent_nothing_and_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    assert passed(leave, metrics) == []
    assert counted(metrics) == {("other", "499"): 1}
    assert "Traceback" not in caplog.text


# metrics and the log


@pytest.mark.parametrize("end", [PlainTextResponse("fine"), crash, crash_late, leave])
def test_a_request_is_in_flight_until_it_ends_however_it_ends(end: ASGIApp) -> None:
    metrics = Metrics()
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(in_flight(metrics))
        await end(scope, receive, send)

    passed(app, metrics)
    assert (seen, in_flight(metrics)) == ([1], 0)


def test_what_is_no_request_passes_as_it_is() -> None:
    metrics = Metrics()
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(dict(scope))

    asked = {"type": "lifespan", "method": "GET", "path": "/there", "headers": []}
    passed(app, metrics, type="lifespan")
    assert (scopes, counted(metrics)) == ([asked], {})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_are_logged_only_when_they_fail(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nerve.request")
    of = {"path": path, "route": SimpleNamespace(path=path)}
    passed(PlainTextResponse("fine"), **of)
    passed(PlainTextResponse("not yet", 503), **of)
    lines = [record.getMessage() for record in caplog.records if record.name == "nerve.request"]
    assert [line.split()[:3] for line in lines] == [["GET", path, "503"]]


def test_errors_count_by_status(server: Server) -> None:
    def count(route: str, status: str) -> float:
        return server.metric("nerve_requests_total", route=route, status=status)

    before = count("/ner", "422"), count("other", "404")
    server.client.post("/ner", json={})
    server.client.get("/nowhere/at/all")
    server.client.get("/nowhere/else")
    assert (count("/ner", "422") - before[0], count("other", "404") - before[1]) == (1, 2)


def test_a_request_is_one_line(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log") as one:
        one.client.post("/ner", json={"text": TEXT}, headers={"X-Request-Id": "my-id"})
        one.client.post("/a%0A12:00:00 INFO forged", headers={"X-Request-Id": "my-id-2"})
    lines = [line for line in one.log.read_text().splitlines() if "my-id" in line]
    assert len(lines) == 2
    assert "POST /ner 200" in lines[0]
    assert "ner-en/1 1 texts 38 chars" in lines[0]


def test_json_logs_are_one_object_a_request(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log", log_format="json") as one:
        one.client.post("/ner", json={"text": TEXT}, headers={"X-Request-Id": "my-id"})
    lines = [json.loads(line) for line in one.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "my-id"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/ner", 200)
    assert (line["model"], line["version"], line["texts"], line["characters"]) == ("ner-en", 1, 1, 38)
    assert line["duration_ms"] > 0
