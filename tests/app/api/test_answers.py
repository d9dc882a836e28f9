"""Whatever is asked, the answer has our format and an id, and says nothing of this machine."""

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.types import Message

from app.main import create_app
from app.settings import Settings
from tests.servers import Server

JSON = {"Content-Type": "application/json"}

NAMES = [
    "\0",
    "a\0b",
    "\n",
    "\x7f",
    ".",
    "..",
    "a" * 201,
    "a" * 300,
    "a" * 5000,
    "é",
    "名",
    "A",
    "-",
    "a b",
]

ROUTES = [
    ("GET", "", None),
    ("GET", "/deployment", None),
    ("GET", "/history", None),
    ("PUT", "/deployment", b'{"stable": 1}'),
    ("POST", "/rollback", b"{}"),
    ("POST", "/promote", b"{}"),
    ("POST", "/abort", b"{}"),
]

METHODS = {
    "/ner": "OPTIONS, POST",
    "/ner/stream": "OPTIONS, POST",
    "/models": "GET, HEAD, OPTIONS",
    "/models/ner-en": "GET, HEAD, OPTIONS",
    "/models/ner-en/deployment": "GET, HEAD, OPTIONS, PUT",
    "/models/ner-en/history": "GET, HEAD, OPTIONS",
    "/models/ner-en/rollback": "OPTIONS, POST",
    "/healthz": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
}


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """The status and code of an answer that is an error in our format."""
    body = answer.json()
    assert set(body) == {"error", "code", "request_id"}, body
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert len(body["error"]) < 600
    assert not re.search(r"/(tmp|home|srv|usr|var)\b|\.state\b|nope\.json", body["error"]), body["error"]
    return answer.status_code, body["code"]


@pytest.mark.parametrize(("method", "tail", "body"), ROUTES)
def test_a_name_that_no_model_can_have_is_unknown(
    server: Server, method: str, tail: str, body: bytes | None
) -> None:
    for name in NAMES:
        path = f"/models/{quote(name).replace('.', '%2E')}{tail}"
        answer = server.client.request(method, path, content=body, headers=JSON)
        assert error_of(answer) == (404, "unknown_model"), name


@pytest.mark.parametrize("name", NAMES)
def test_a_text_for_a_model_that_cannot_be_is_refused(server: Server, name: str) -> None:
    answer = server.client.post("/ner", json={"text": "a", "model": name})
    assert error_of(answer) == (404, "unknown_model")


@pytest.mark.parametrize(
    "path", ["/", "//", "//models", "/models/a/b", "/models/..%2F..%2Fetc", "/" + "a" * 5000]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_path_that_is_not_there_is_not_found(server: Server, method: str, path: str) -> None:
    assert error_of(server.client.request(method, server.url + path)) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["/models/", "/ner/", "/healthz/", "/models/ner-en/", "/models/ner-en/history//"]
)
def test_nobody_is_sent_elsewhere_for_a_slash_too_many(server: Server, path: str) -> None:
    answer = server.client.get(path, headers={"Host": "localhost"})
    assert error_of(answer) == (404, "not_found")
    assert "leave out the slash at its end" in answer.json()["error"]


@pytest.mark.parametrize(("path", "methods"), METHODS.items())
def test_a_path_says_all_that_it_has(server: Server, path: str, methods: str) -> None:
    options = server.client.options(path)
    assert (options.status_code, options.content, options.headers["Allow"]) == (204, b"", methods)
    assert "X-Request-Id" in options.headers
    for method in ("DELETE", "PATCH", "TRACE"):
        wrong = server.client.request(method, path)
        assert error_of(wrong) == (405, "method_not_allowed")
        assert wrong.headers["Allow"] == methods
        assert methods in wrong.json()["error"]


@pytest.mark.parametrize("path", METHODS)
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    head, get = server.client.head(path), server.client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert "X-Request-Id" in head.headers


def test_an_error_to_head_has_no_body(server: Server) -> None:
    for path, status in (("/models/nope", 404), ("/nowhere", 404), ("/models/a/history?limit=0", 422)):
        head = server.client.head(path)
        assert (head.status_code, head.content) == (status, b"")


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", "10001", "9" * 5000, "%00", "é"])
def test_a_wrong_parameter_is_told_as_a_wrong_field_is(server: Server, limit: str) -> None:
    answer = server.client.get(f"/models/ner-en/history?limit={limit}")
    assert error_of(answer) == (422, "invalid_request")
    assert answer.json()["error"].startswith("query.limit: ")


@pytest.mark.parametrize(
    "given", ["9" * 5000, '"' + "9" * 5000 + '"', "\xb2", "-1", "", '"1", "2"', "x" * 3000]
)
def test_if_match_holds_a_generation(server: Server, given: str) -> None:
    headers = [(b"If-Match", given.encode("latin-1")), (b"Content-Type", b"application/json")]
    answer = server.client.post("/models/ner-en/rollback", content=b"{}", headers=headers)
    assert error_of(answer) == (400, "bad_request")


@pytest.mark.parametrize("given", ["9" * 5000, "0" * 5000 + "1", "x" * 3000, "0", "-1", ""])
def test_a_time_limit_is_a_number_of_milliseconds(server: Server, given: str) -> None:
    answer = server.client.post("/ner", json={"text": "a"}, headers={"X-Request-Timeout-Ms": given})
    assert error_of(answer) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("number", "pinned", "deployed"),
    [
        ("0", 422, 422),
        ("-1", 422, 422),
        ("1.5", 422, 422),
        ("1e400", 422, 422),
        ("9" * 30, 404, 422),
        ("9" * 400, 404, 422),
        ("9" * 5000, 400, 400),
    ],
)
def test_a_version_is_a_number_that_the_model_has(
    server: Server, number: str, pinned: int, deployed: int
) -> None:
    answer = server.client.post("/ner", content=f'{{"text": "a", "version": {number}}}', headers=JSON)
    assert error_of(answer)[0] == pinned
    answer = server.client.put("/models/ner-en/deployment", content=f'{{"stable": {number}}}', headers=JSON)
    assert error_of(answer)[0] == deployed
    plain = {"Content-Type": "text/plain"}
    asked = server.client.post(f"/ner?version={number}", content="a", headers=plain)
    assert error_of(asked)[0] == (422 if pinned == 400 else pinned)


@pytest.mark.parametrize("extended", [False, True])
def test_a_web_socket_is_refused(extended: bool) -> None:
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/ner",
        "headers": [(b"x-request-id", b"mine")],
        "extensions": {"websocket.http.response": {}} if extended else {},
    }
    app = create_app(Settings())
    asyncio.run(app(scope, receive, send))
    if extended:
        start, body = sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
        assert json.loads(body["body"])["request_id"] == "mine"
        assert (b"x-request-id", b"mine") in start["headers"]
    else:
        assert sent == [{"type": "websocket.close"}]
