"""Whoever can reach the server may use it; pages of other sites may not use their readers' browsers to."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.origins import Origins
from app.errors import BadRequest, Forbidden, RequestError
from tests.servers import Server, serving
from tests.tiny import write_tiny_version

OURS = (
    "127.0.0.1",
    "10.1.2.3",
    "[::1]",
    "[fe80::1]",
    "localhost",
    "a.localhost",
    "LOCALHOST",
    "nerve",
    "nerve.",
)
OTHERS = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xn--e1afmkfd.com", "127.1")
NO_HOSTS = (
    "",
    "[",
    "[::1",
    "a b",
    "a:b",
    "a:1:2",
    "a/b",
    "user@a",
    "a,b",
    "a\x00",
    "é",
    ":80",
    "[evil]:80",
)


def checked(path: str, *headers: tuple[str, str], allowed: tuple[str, ...] = (), root: str = "") -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    Origins(allowed).check({"path": root + path, "root_path": root, "headers": raw})


def code_of(path: str, *headers: tuple[str, str], allowed: tuple[str, ...] = (), root: str = "") -> str:
    with pytest.raises((BadRequest, Forbidden)) as raised:
        checked(path, *headers, allowed=allowed, root=root)
    return raised.value.code


@pytest.mark.parametrize("port", ["", ":8000"])
@pytest.mark.parametrize("host", OURS)
def test_models_are_administered_under_names_that_are_certainly_ours(host: str, port: str) -> None:
    checked("/models", ("host", host + port))
    checked("/models/ner-en/deployment", ("host", host + port), root="/below")


@pytest.mark.parametrize("host", OTHERS)
def test_under_other_names_only_what_anyone_may_do_is_done(host: str) -> None:
    for path in ("/models", "/models/ner-en/deployment", "/models/nowhere"):
        assert code_of(path, ("host", host)) == "host_not_allowed"
        assert code_of(path, ("host", host), root="/below") == "host_not_allowed"
    for path in ("/ner", "/metrics", "/healthz", "/docs"):
        checked(path, ("host", host))


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_malformed_host_is_no_name(host: str) -> None:
    expected = "host_not_allowed" if host == "[evil]:80" else "invalid_host"
    assert code_of("/models", ("host", host)) in (expected, "invalid_host")


def test_there_is_one_host() -> None:
    assert code_of("/models") == "invalid_host"
    assert code_of("/models", ("host", "localhost"), ("host", "localhost")) == "invalid_host"


@given(st.text(st.characters(max_codepoint=255)))
def test_whatever_the_host_is_there_is_an_answer(host: str) -> None:
    refused: list[RequestError] = []
    try:
        checked("/models", ("host", host))
    except (BadRequest, Forbidden) as error:
        refused.append(error)
    assert all(len(error.message) < 400 and error.message.isprintable() for error in refused)


def test_the_operator_names_the_hosts_of_every_route() -> None:
    names = ("ner.example.com", "*.example.org")
    for path in ("/models", "/ner", "/metrics", "/docs"):
        for host in ("ner.example.com", "NER.example.com:8000", "a.example.org", "a.b.example.org.", *OURS):
            checked(path, ("host", host), allowed=names)
        for host in ("example.org", "badexample.org", "example.com", "a.ner.example.com", *OTHERS):
            assert code_of(path, ("host", host), allowed=names) == "host_not_allowed"
        assert code_of(path, allowed=names) == "invalid_host"
    for path in ("/healthz", "/readyz"):
        checked(path, ("host", "evil.example"), allowed=names)
        checked(path, allowed=names)


def test_the_operator_may_allow_any_host_but_no_other_site() -> None:
    checked("/models", ("host", "evil.example"), allowed=("*",))
    origin = ("origin", "http://evil.example")
    assert code_of("/models", ("host", "ner.example"), origin, allowed=("*",)) == "origin_not_allowed"


@pytest.mark.parametrize("origin", ["http://localhost:8000", "https://LocalHost:8000"])
def test_a_page_of_this_server_may_do_what_its_reader_may(origin: str) -> None:
    checked("/models", ("host", "localhost:8000"), ("origin", origin), ("sec-fetch-site", "same-origin"))
    checked("/models", ("host", "localhost:8000"), ("sec-fetch-site", "none"))


@pytest.mark.parametrize(
    "header",
    [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", ""),
        ("origin", "http://localhost"),
        ("origin", "http://localhost:3000"),
        ("origin", "localhost:8000"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "what else"),
    ],
)
def test_a_page_of_another_site_may_not_administer_models(header: tuple[str, str]) -> None:
    assert code_of("/models", ("host", "localhost:8000"), header) == "origin_not_allowed"
    checked("/ner", ("host", "localhost:8000"), header)


# on a real server

PAGES_CAN_SEND = [
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"content-type": "text/plain"},
    {},
]


@pytest.mark.parametrize("headers", PAGES_CAN_SEND)
@pytest.mark.parametrize("step", ["rollback", "promote", "abort"])
def test_a_form_changes_nothing(server: Server, step: str, headers: dict[str, str]) -> None:
    answer = server.client.post(f"/models/ner-en/{step}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    headers = headers | {"origin": "http://evil.example"}
    answer = server.client.post(f"/models/ner-en/{step}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize("body", [b"", b"{}", b" {\n} "])
def test_a_step_takes_nothing_that_is_declared_as_json(server: Server, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = server.client.post("/models/ner-en/rollback", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_previous_version")


@pytest.mark.parametrize(("body", "status"), [(b'{"stable": 1}', 422), (b"[]", 422), (b"{", 400)])
def test_a_step_takes_no_fields(server: Server, body: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    answer = server.client.post("/models/ner-en/rollback", content=body, headers=headers)
    assert answer.status_code == status


def test_a_page_that_points_its_name_here_neither_sees_nor_changes_models(server: Server) -> None:
    host = {"host": "evil.example"}
    put = server.client.put("/models/ner-en/deployment", json={"stable": 1}, headers=host)
    for answer in (
        put,
        server.client.get("/models", headers=host),
        server.client.get("/models/", headers=host),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")
        assert "NERVE_ALLOWED_HOSTS" in answer.json()["error"]
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_two_hosts_are_one_too_many(server: Server) -> None:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is reached as `ner.example.com`."""
    folder: Path = tmp_path_factory.mktemp("named")
    write_tiny_version(folder / "models")
    with serving(folder / "models", folder / "log", allowed_hosts="ner.example.com") as running:
        yield running


def test_a_server_with_a_name_is_found_under_it_and_by_probes(named: Server) -> None:
    def status(path: str, host: str) -> int:
        return named.client.get(path, headers={"host": host}).status_code

    assert {status(path, "ner.example.com") for path in ("/models", "/metrics", "/docs")} == {200}
    assert {status(path, "evil.example") for path in ("/models", "/metrics", "/docs", "/nowhere")} == {403}
    assert {status(path, "evil.example") for path in ("/healthz", "/readyz")} == {200}
