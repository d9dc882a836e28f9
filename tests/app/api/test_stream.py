"""`POST /ner/stream` as its callers see it: a line for each line, and what is wrong with lines."""

import gzip
import json

import pytest

from tests.answers import EVERYTHING, spans
from tests.app.api.streams import NDJSON, PLAIN, answers, ask, lines_of, read
from tests.servers import Server
from tests.tiny import SPANS, TEXT


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
        (b"[" * 10_000, "invalid_json"),
        (b"[" * 100_000, "too_many_values"),
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
    assert "labels: not a line's" in results[23]["error"]


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
    assert {"200", "404", "409", "415", "422", "503"} <= set(route["responses"])
    for side in (route["requestBody"], route["responses"]["200"]):
        for line in side["content"]["application/x-ndjson"]["example"].splitlines():
            json.loads(line)
