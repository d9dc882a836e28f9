"""Who may change what is served, and what strangers learn from the answers that they get."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.attack.harness import MB, Target, assert_quiet
from tests.attack.raw import Answer, assert_ours, head, many, read, send
from tests.deployments import put, show
from tests.servers import Server, serving
from tests.tiny import write_tiny_version

pytestmark = pytest.mark.attack

FORM = "application/x-www-form-urlencoded"


def ask(server: Server, method: str, path: str, *lines: str, body: bytes = b"", host: str = "") -> Answer:
    """Send a request with exactly these headers."""
    length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT") else []
    sent = head(method, path, "Connection: close", *lines, *length) + body
    return send(server, sent.replace(b"Host: localhost", f"Host: {host}".encode()) if host else sent)


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model can be rolled back, promoted and aborted; no attack may do so."""
    folder = tmp_path_factory.mktemp("rolled")
    for version in (1, 2, 3):
        write_tiny_version(folder / "models", version=version)
    with serving(folder / "models", folder / "log") as server:
        for change in ({"stable": 1}, {"stable": 2}, {"canary": {"version": 3, "percent": 1}}):
            assert put(server, "ner-en", **change).status_code == 200
        yield server
        assert_quiet(server.log)


CHANGES = [
    ("POST", "/models/ner-en/rollback", b""),
    ("POST", "/models/ner-en/promote", b""),
    ("POST", "/models/ner-en/abort", b""),
    ("PUT", "/models/ner-en/deployment", b'{"stable": 1}'),
]

STRANGERS: dict[str, tuple[list[str], str]] = {
    "a form": ([f"Content-Type: {FORM}", "Origin: http://evil.example"], ""),
    "a form with files": (["Content-Type: multipart/form-data; boundary=x", "Origin: null"], ""),
    "a form of text": (["Content-Type: text/plain", "Origin: http://evil.example"], ""),
    "no type": ([], ""),
    "a type that looks alike": (["Content-Type: text/plain; application/json"], ""),
    "a script of another site": (["Content-Type: application/json", "Origin: http://evil.example"], ""),
    "a script of a sandboxed frame": (["Content-Type: application/json", "Origin: null"], ""),
    "a script of another port": (["Content-Type: application/json", "Origin: http://localhost:1"], ""),
    "a site that says so": (["Content-Type: application/json", "Sec-Fetch-Site: cross-site"], ""),
    "a name that was bound anew": (
        ["Content-Type: application/json", "Origin: http://evil.example"],
        "evil.example",
    ),
    "a host of another": (["Content-Type: application/json"], "evil.example"),
    "a host that begins alike": (["Content-Type: application/json"], "localhost.evil.example"),
    "a host with a user": (["Content-Type: application/json"], "localhost@evil.example"),
    "an address that begins alike": (["Content-Type: application/json"], "127.0.0.1.evil.example"),
    "two hosts": (["Content-Type: application/json", "Host: evil.example"], ""),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_no_web_page_changes_what_is_served(rolled: Server, who: str) -> None:
    lines, host = STRANGERS[who]
    before = show(rolled, "ner-en")
    for method, path, body in CHANGES:
        answer = ask(rolled, method, path, *lines, body=body, host=host)
        assert_ours(answer, 400, 403, 415, 421)
    after = show(rolled, "ner-en")
    assert after["generation"] == before["generation"], f"{who} changed what is served"


@pytest.mark.parametrize("path", ["/models", "/models/ner-en", "/models/ner-en/deployment", "/docs"])
def test_a_name_that_was_bound_anew_reads_nothing_either(rolled: Server, path: str) -> None:
    answer = ask(rolled, "GET", path, host="evil.example")
    assert answer.status in (403, 421) or path == "/docs", f"{path}: {answer.status} to any Host"
    for header in ("access-control-allow-origin", "access-control-allow-credentials"):
        assert header not in ask(rolled, "GET", path, "Origin: http://evil.example").headers


def test_an_operator_on_this_machine_is_let_in(rolled: Server) -> None:
    """By every name of the loopback, with and without a page of our own."""
    port = rolled.url.rpartition(":")[2]
    generation = show(rolled, "ner-en")["generation"]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        for lines in ([], [f"Origin: http://{host}"]):
            answer = ask(
                rolled,
                "PUT",
                "/models/ner-en/deployment",
                "Content-Type: application/json",
                f'If-Match: "{generation + 1000}"',  # so that it changes nothing
                *lines,
                body=b'{"stable": 1}',
                host=host,
            )
            assert answer.status == 412, f"{host} {lines}: {answer}"


# names and numbers

NAMES = {
    "a zero": "ner%00en",
    "a zero at the end": "ner-en%00",
    "three hundred characters": "a" * 300,
    "three thousand characters": "a" * 3_000,
    "a path up": "..%2f..%2fetc%2fpasswd",
    "a folder up": "%2e%2e",
    "a hidden folder": ".state",
    "the folder of additions": ".incoming",
    "a slash": "ner-en%2f1",
    "a line feed": "ner-en%0aforged",
    "a carriage return": "ner-en%0d%0aX-A:%20b",
    "an escape of a terminal": "%1b%5b31mred",
    "no UTF-8": "%ff%fe",
    "half of a surrogate": "%ed%a0%80",
    "Han": quote("北京"),
    "a blank": "%20",
    "markup": quote("<script>alert(1)</script>", safe=""),
    "a format": "%25s%25n%7b0%7d",
    "a list": quote("['ner-en']", safe=""),
    "a shell": quote("$(id)", safe=""),
    "a semicolon": "ner-en;v=1",
    "capitals": "NER-EN",
}

ROUTES = [
    ("GET", "/models/{}", b""),
    ("GET", "/models/{}/deployment", b""),
    ("GET", "/models/{}/history", b""),
    ("PUT", "/models/{}/deployment", b'{"stable": 1}'),
    ("POST", "/models/{}/rollback", b"{}"),
    ("POST", "/models/{}/promote", b"{}"),
    ("POST", "/models/{}/abort", b"{}"),
]

JSON = "Content-Type: application/json"


@pytest.mark.parametrize("what", NAMES)
def test_a_name_of_a_model_is_refused_and_leaks_nothing(rolled: Server, what: str) -> None:
    folder = str(rolled.log.parent)
    for method, path, body in ROUTES:
        answer = ask(rolled, method, path.format(NAMES[what]), JSON, body=body)
        said = assert_ours(answer, 400, 404, 405, 422)
        assert folder not in json.dumps(said), f"{method} {path}: the answer names a folder: {said}"
    named = json.dumps({"text": "IBM", "model": "x" * 5_000}).encode()
    assert folder not in json.dumps(assert_ours(ask(rolled, "POST", "/ner", JSON, body=named), 404, 422))


DIGITS = ["0", "-1", "9" * 20, "9" * 400, "9" * 5_000, "\xb3", "1e3", "1.5", "0x10", "NaN", "", " ", "\xb2"]
"""Numbers that no generation, time, limit or version can be."""

HEADERS = [
    ("PUT", "/models/ner-en/deployment", "If-Match"),
    ("POST", "/models/ner-en/rollback", "If-Match"),
    ("POST", "/ner", "X-Request-Timeout-Ms"),
    ("POST", "/ner", "Content-Length"),
    ("POST", "/ner", "X-Request-Id"),
    ("POST", "/ner", "Accept"),
    ("POST", "/ner", "Expect"),
    ("POST", "/ner", "Range"),
    ("POST", "/ner", "If-None-Match"),
    ("POST", "/ner", "Upgrade"),
    ("POST", "/ner", "Connection"),
    ("POST", "/ner", "traceparent"),
    ("POST", "/ner", "X-Forwarded-For"),
    ("POST", "/ner", "Content-Encoding"),
    ("POST", "/ner", "Content-Type"),
    ("POST", "/ner/stream", "X-Request-Timeout-Ms"),
]


@pytest.mark.parametrize(("method", "path", "name"), HEADERS)
def test_a_header_of_digits_is_no_fault_of_the_server(
    rolled: Server, method: str, path: str, name: str
) -> None:
    body = b'{"stable": 1}' if method == "PUT" else b"{}" if "rollback" in path else b'{"text":"IBM"}'
    for value in [
        *DIGITS,
        '"' + "9" * 5_000 + '"',
        "W/" + '"1"' * 100,
        "a" * 5_000,
        "a/b; charset=" + "x" * 5_000,
        "\xff" * 50,
    ]:
        lines = ["Connection: close", f"{name}: {value}", *([] if name == "Content-Type" else [JSON])]
        if name != "Content-Length":
            lines.append(f"Content-Length: {len(body)}")
        answer = send(rolled, head(method, path, *lines) + body, timeout=20)
        assert answer.status < 500, f"{name}: {value[:40]!r} gave {answer.status} {answer.body[:300]!r}"
        if answer.status >= 400:
            assert_ours(answer, *range(400, 500))
        assert len(answer.headers.get("x-request-id", "")) <= 128
    assert show(rolled, "ner-en")["stable"] == 2


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/ner-en/history", "limit"),
        ("/ner", "version"),
        ("/ner", "min_score"),
        ("/ner", "offset_unit"),
        ("/ner", "agreement"),
        ("/ner", "labels"),
        ("/ner", "model"),
        ("/ner/stream", "version"),
        ("/ner", "%00"),
        ("/ner", "a" * 3_000),
        ("/models", "x"),
    ],
)
def test_a_query_of_digits_is_no_fault_of_the_server(rolled: Server, path: str, name: str) -> None:
    plain = ["Content-Type: text/plain"]
    for value in [
        *(quote(digits) for digits in DIGITS),
        "%00",
        "%ff",
        "%ed%a0%80",
        "a" * 3_000,
        "1&limit=2",
    ]:
        method = "POST" if path.startswith("/ner") else "GET"
        answer = ask(rolled, method, f"{path}?{name}={value}", *plain, body=b"IBM" if plain else b"")
        assert answer.status < 500, f"{name}={value[:40]} gave {answer.status} {answer.body[:300]!r}"
        if answer.status >= 400:
            assert_ours(answer, *range(400, 500))


# every route

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
BODIES = [b"", b"{}", b"[]", b"null", b'{"text":1}', b"\xff", b"{", b'{"stable":null}', b'{"stable":1e400}']
TYPES = [[], [JSON], [f"Content-Type: {FORM}"], ["Content-Type: \xff/\xfe"], ["Content-Type: " + ";" * 500]]


def test_every_route_answers_in_our_format_whatever_is_sent(rolled: Server) -> None:
    described = rolled.client.get("/openapi.json").json()
    for path, operations in described["paths"].items():
        for name in ("ner-en", "nobody", "%00") if "{" in path else ("",):
            filled = re.sub(r"\{[a-z_]+\}", name, path)
            for method in METHODS:
                known = method.lower() in operations
                if known and name == "ner-en" and method in ("POST", "PUT") and "/models" in path:
                    continue  # it would change what is served, and may
                for body in BODIES if known and method in ("POST", "PUT") else [b""]:
                    for lines in TYPES if body in (b"", b"{}") else TYPES[1:2]:
                        if method != "CONNECT":
                            _assert_fit(ask(rolled, method, filled, *lines, body=body), method, filled)
        answer = ask(rolled, "DELETE", re.sub(r"\{[a-z_]+\}", "ner-en", path))
        assert_ours(answer, 405)
        allowed = {method.strip().lower() for method in answer.headers["allow"].split(",")}
        assert set(operations) <= allowed, f"{path}: Allow says {allowed}, it takes {set(operations)}"


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/nobody", "/models/", "/models//", "/ner/", "/docs/../models", "/%2e%2e/", "/\xff", "*"],
)
def test_what_is_no_route_is_answered_in_our_format(rolled: Server, path: str) -> None:
    for method in METHODS:
        if method != "CONNECT":
            answer = ask(rolled, method, path, host="evil.example")
            _assert_fit(answer, method, path)
            assert "evil" not in answer.headers.get("location", ""), (
                f"{method} {path} leads to {answer.headers}"
            )


def _assert_fit(answer: Answer, method: str, path: str) -> None:
    """Assert that an answer has an id, and where it is a refusal our format too."""
    where = f"{method} {path[:60]}"
    assert 200 <= answer.status < 500, f"{where}: {answer.status} {answer.body[:300]!r}"
    assert "x-request-id" in answer.headers or answer.status == 400, f"{where}: {answer.headers}"
    if answer.status >= 400 and method != "HEAD":
        assert_ours(answer, *range(400, 500))


def test_the_description_leads_nowhere_else(rolled: Server) -> None:
    described = rolled.client.get("/openapi.json").json()
    for reference in _references(described):
        found: Any = described
        assert reference.startswith("#/"), reference
        for part in reference[2:].split("/"):
            assert part in found, f"{reference} leads nowhere"
            found = found[part]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_the_pages_load_nothing_from_elsewhere(rolled: Server, path: str) -> None:
    page = rolled.client.get(path)
    if page.status_code != 200:
        return  # there is no such page
    for address in re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page.text):
        assert not address.startswith(("http:", "https:", "//")), f"{path} loads {address}"


# what strangers leave behind


def test_names_that_nobody_has_make_no_metric_and_no_file(rolled: Server, tmp_path: Path) -> None:
    """Each label of a metric and each file is for ever; strangers must not be able to make them."""
    before = len(rolled.client.get("/metrics").text)
    state = rolled.log.parent / "models/.state"
    files = set(state.iterdir())
    for number in range(100):
        for method, path, body in ROUTES:
            ask(rolled, method, path.format(f"stranger-{number}"), JSON, body=body)
        ask(rolled, f"METHOD{number}", f"/path-{number}")
        named = json.dumps(
            {"text": "IBM", "model": f"stranger-{number}", "labels": [f"L{number}"]}
        ).encode()
        ask(rolled, "POST", "/ner", JSON, body=named)
        ask(rolled, "POST", "/ner", JSON, body=b'{"text":"IBM","version":%d}' % (number + 1_000))
    said = rolled.client.get("/metrics").text
    assert "stranger" not in said
    assert len(said) - before < 30_000, f"the metrics grew by {len(said) - before} bytes"
    assert set(state.iterdir()) - files <= {state / "workers"}, "strangers made files"


SECRET = "Zarathustra-Quetzalcoatl"
"""A text that must not be found anywhere afterwards."""


def test_no_text_reaches_the_log_at_any_level(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log", log_level="debug") as server:
        bodies = [
            json.dumps({"text": SECRET}),
            json.dumps({"text": SECRET, SECRET: SECRET}),
            json.dumps({"texts": [SECRET, 1]}),
            json.dumps({"text": SECRET, "labels": [SECRET]}),
            json.dumps({"text": SECRET + " poison"}),
            json.dumps({"text": SECRET})[:-1],
            f'{{"text": "{SECRET}\\ud800"}}',
        ]
        answers = [ask(server, "POST", "/ner", JSON, body=body.encode()) for body in bodies]
        answers.append(
            ask(server, "POST", "/ner", "Content-Type: text/plain", body=SECRET.encode() + b"\xff")
        )
        lines = "".join(body + "\n" for body in bodies).encode()
        ask(server, "POST", "/ner/stream", "Content-Type: application/x-ndjson", body=lines)
        ask(server, "POST", f"/ner?text={SECRET}", "Content-Type: text/plain", body=SECRET.encode())
        for answer in answers:
            if answer.status >= 400:
                said = answer.json()["error"]
                told = said.replace(f"label '{SECRET}'", "").replace(f"{SECRET}: there is", "")
                assert SECRET not in told, f"an error holds the text: {said}"
        assert SECRET not in server.client.get("/metrics").text
    assert SECRET not in server.log.read_text(), "the log holds a text"


def test_a_log_has_one_line_a_request_whatever_is_in_it(rolled: Server) -> None:
    begun = rolled.log.stat().st_size
    forged = [
        "/a%0a12:00:00 INFO forged".replace(" ", "%20"),
        "/a%0d%0aforged",
        "/%e2%80%a8forged",
        "/%c2%85forged",
        "/%1b%5b2Jforged",
        "/%e2%80%aeforged",
        "/" + "a" * 7_000,
    ]
    for path in forged:
        ask(rolled, "GET", path, "X-Request-Id: a\x0bforged", "User-Agent: forged")
    with rolled.log.open("rb") as file:
        file.seek(begun)
        lines = file.read().decode().splitlines()
    assert len(lines) == len(forged), lines
    for line in lines:
        assert not line.startswith("forged")
        assert line.isprintable(), f"{line[:200]!r}"
        assert len(line) < 4_096, f"a line of the log has {len(line)} characters"


def test_changes_that_race_leave_one_of_them(tiny: Target) -> None:
    """Many operators change one model at once, and each generation is written down once."""

    def attack() -> list[int]:
        statuses: list[int] = []

        def change(number: int) -> None:
            with tiny.server.fresh_client() as client:
                for at in range(4):
                    body = {"stable": 1 + (number + at) % 2}
                    statuses.append(client.put("/models/ner-en/deployment", json=body).status_code)

        threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return statuses

    statuses = tiny.withstands(attack, wait=1, memory=200 * MB)
    assert set(statuses) <= {200, 202}, statuses
    history = tiny.server.client.get("/models/ner-en/history?limit=1000").json()
    generations = [change["deployment"]["generation"] for change in history]
    assert generations == sorted(set(generations)), generations


@pytest.mark.parametrize("sticky", ["x" * 300, "x" * 7 * MB, "a\r\nb", "a\0b", "北京", "a b", "a:b"])
def test_what_a_canary_sticks_to_is_the_name_of_a_header(rolled: Server, sticky: str) -> None:
    """It is written into the state and the history, and read by every process from then on."""
    body = json.dumps({"canary": {"version": 3, "percent": 1, "sticky": sticky}}).encode()
    assert_ours(ask(rolled, "PUT", "/models/ner-en/deployment", JSON, body=body), 413, 422)


def test_a_flood_of_changes_that_change_nothing_writes_nothing(tiny: Target) -> None:
    assert put(tiny.server, "other", stable=1).status_code == 200
    history = tiny.server.client.get("/models/other/history").json()

    def attack() -> None:
        with many(tiny.server, 4) as socks:
            for _ in range(20):
                for sock in socks:
                    body = b'{"stable": 1}'
                    sock.sendall(
                        head("PUT", "/models/other/deployment", JSON, f"Content-Length: {len(body)}") + body
                    )
                    assert read(sock).status == 200

    tiny.withstands(attack, memory=100 * MB)
    assert tiny.server.client.get("/models/other/history").json() == history
