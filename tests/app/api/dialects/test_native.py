"""`POST /ner` as its callers see it: a real server, asked over HTTP."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings

from app.api.statuses import ErrorBody
from tests.answers import EVERYTHING, UNITS, slice_in, spans
from tests.servers import Server, serving
from tests.texts import texts
from tests.tiny import POISON, SPANS, TEXT, write_tiny_version

JSON = {"Content-Type": "application/json"}
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


# answers


def test_one_text(server: Server) -> None:
    answer = server.ner(TEXT)
    assert set(answer) == {"model", "version", "windows", "entities"}
    assert (answer["model"], answer["version"], answer["windows"]) == ("ner-en", 1, 1)
    assert spans(answer) == SPANS
    assert [entity["text"] for entity in answer["entities"]] == ["Angela Merkel", "IBM", "New York"]
    for entity in answer["entities"]:
        assert set(entity) == {"text", "label", "start", "end", "score"}
        assert 0.5 < entity["score"] <= 1


def test_several_texts_in_their_order(server: Server) -> None:
    asked = ["IBM", "", TEXT, "nothing here", "x " * 100 + "IBM"]
    answer = server.client.post("/ner", json={"texts": asked}).json()
    assert set(answer) == {"model", "version", "results"}
    assert [set(result) for result in answer["results"]] == [{"windows", "entities"}] * 5
    assert [spans(result) for result in answer["results"]] == [
        [(0, 3, "ORG")],
        [],
        SPANS,
        [],
        [(200, 203, "ORG")],
    ]
    assert [result["windows"] for result in answer["results"]] == [1, 0, 1, 1, 5]


def test_no_texts(server: Server) -> None:
    assert server.client.post("/ner", json={"texts": []}).json()["results"] == []


def test_plain_text(server: Server) -> None:
    answer = server.client.post("/ner", content=TEXT.encode(), headers=PLAIN)
    assert answer.json() == server.ner(TEXT)


def test_plain_text_takes_its_options_from_the_query(server: Server) -> None:
    query = "/ner?labels=PER,LOC&labels=ORG&min_score=0.5&offset_unit=byte&model=other&version=1"
    answer = server.client.post(query, content="ä IBM".encode(), headers=PLAIN).json()
    assert (answer["model"], answer["version"]) == ("other", 1)
    assert spans(answer) == [(3, 6, "ORG")]
    answer = server.client.post("/ner?labels=PER", content=b"IBM", headers=PLAIN).json()
    assert spans(answer) == []


def test_options(server: Server) -> None:
    assert spans(server.ner(TEXT, labels=["PER"])) == SPANS[:1]
    assert spans(server.ner(TEXT, labels=[])) == []
    assert spans(server.ner("perhaps", min_score=0)) == [(0, 7, "PER")]
    assert spans(server.ner("perhaps", min_score=0.9)) == []
    assert server.ner(TEXT, model="other")["model"] == "other"
    assert server.ner(TEXT, model="other", version=1)["version"] == 1
    assert spans(server.ner(TEXT, version=1, labels=None, min_score=1e-9)) == SPANS


@pytest.mark.parametrize("text", ["", " ", "\n", "\r\n\t \u3000\u2028", "\u200b", "\x00"])
def test_a_blank_text_has_no_entities_and_is_no_error(server: Server, text: str) -> None:
    assert server.ner(text) == {"model": "ner-en", "version": 1, "windows": 0, "entities": []}
    plain = server.client.post("/ner", content=text.encode(), headers=PLAIN)
    assert plain.json()["entities"] == []


@pytest.mark.parametrize("unit", UNITS)
def test_slicing_gives_the_text_in_every_unit(server: Server, unit: Any) -> None:
    answer = server.ner(EVERYTHING, offset_unit=unit)
    assert len(answer["entities"]) >= 6
    for entity in answer["entities"]:
        assert slice_in(unit, EVERYTHING, entity["start"], entity["end"]) == entity["text"]


@settings(max_examples=25)
@given(text=texts)
def test_slicing_gives_the_text_for_whatever_is_posted(server: Server, text: str) -> None:
    asked = [f"{text}IBM{text} Angela{text}Merkel {text}", f"北京{text}", text]
    for unit in UNITS:
        answer = server.client.post("/ner", json={"texts": asked, "offset_unit": unit})
        for whole, result in zip(asked, answer.json()["results"], strict=True):
            for entity in result["entities"]:
                assert slice_in(unit, whole, entity["start"], entity["end"]) == entity["text"]


def test_a_megabyte_without_a_blank(server: Server) -> None:
    answer = server.ner("x" * 1_000_000)
    assert answer["entities"] == []
    assert answer["windows"] == 1


def test_a_megabyte_of_text_with_an_entity_at_its_end(server: Server) -> None:
    text = "é" * 499_000 + " \n" * 200 + " Angela Merkel"
    answer = server.ner(text, offset_unit="byte")
    assert [slice_in("byte", text, e["start"], e["end"]) for e in answer["entities"]] == ["Angela Merkel"]


@pytest.mark.parametrize("before", range(20, 32))
def test_long_text_is_cut_into_windows_and_an_entity_at_an_edge_is_whole(
    server: Server, before: int
) -> None:
    text = "x " * before + TEXT + " x" * 100
    answer = server.ner(text)
    assert answer["windows"] > 1
    assert spans(answer) == [(2 * before + s, 2 * before + e, label) for s, e, label in SPANS]


def test_as_many_texts_as_are_allowed_keep_their_order(server: Server) -> None:
    asked = ["x " * (number % 7) + "IBM" for number in range(1_000)]
    answer = server.client.post("/ner", json={"texts": asked}).json()
    starts = [[entity["start"] for entity in result["entities"]] for result in answer["results"]]
    assert starts == [[2 * (number % 7)] for number in range(1_000)]


def test_an_answer_does_not_depend_on_the_other_texts(server: Server) -> None:
    asked = [TEXT, EVERYTHING, "x " * 200 + TEXT, "perhaps", TEXT * 9]
    alone = [server.ner(text) for text in asked]
    for order in (asked, asked[::-1]):
        answer = server.client.post("/ner", json={"texts": [*order, *order]}).json()
        for text, result in zip([*order, *order], answer["results"], strict=True):
            assert result.items() <= alone[asked.index(text)].items()


# errors


def post(content: bytes | str, headers: dict[str, str] = JSON, query: str = "") -> Callable[[Server], Any]:
    body = content if isinstance(content, bytes) else content.encode()
    return lambda server: server.client.post(f"/ner{query}", content=body, headers=headers)


def body(**fields: Any) -> Callable[[Server], Any]:
    return post(json.dumps(fields))


ERRORS: dict[str, tuple[Callable[[Server], Any], int, str]] = {
    "malformed JSON": (post('{"text": "a"'), 400, "invalid_json"),
    "no body": (post(""), 400, "invalid_json"),
    "more than one JSON value": (post('{"text": "a"} {}'), 400, "invalid_json"),
    "JSON nested too deep": (post("[" * 5_000), 400, "invalid_json"),
    "malformed JSON with half a pair": (post('{"text": "\\ud83d"'), 400, "invalid_json"),
    "JSON that is not UTF-8": (post(b'{"text": "\xff"}'), 400, "invalid_utf8"),
    "a surrogate in UTF-8": (post(b'{"text": "\xed\xa0\x80"}'), 400, "invalid_utf8"),
    "plain text that is not UTF-8": (post(b"caf\xe9", PLAIN), 400, "invalid_utf8"),
    "UTF-16": (post("IBM".encode("utf-16"), PLAIN), 400, "invalid_utf8"),
    "an unknown model": (body(text="a", model="nope"), 404, "unknown_model"),
    "a model that is a path": (body(text="a", model="../models/ner-en"), 404, "unknown_model"),
    "an unknown version": (body(text="a", version=99), 404, "unknown_version"),
    "an enormous version": (body(text="a", version=10**30), 404, "unknown_version"),
    "an unknown model and a version": (body(text="a", model="nope", version=1), 404, "unknown_model"),
    "too many bytes": (post(b" " * (8 * 1024 * 1024 + 1)), 413, "body_too_large"),
    "too many characters": (body(text="x" * 1_000_001), 413, "text_too_long"),
    "too many characters in one of the texts": (
        body(texts=["a", "x" * 1_000_001]),
        413,
        "text_too_long",
    ),
    "too many characters of plain text": (post("é" * 1_000_001, PLAIN), 413, "text_too_long"),
    "too many texts": (body(texts=["a"] * 1_001), 413, "too_many_texts"),
    "far too many texts": (body(texts=["a"] * 10_000), 413, "too_many_values"),
    "no media type": (post('{"text": "a"}', {}), 415, "unsupported_media_type"),
    "a form": (
        post("text=a", {"Content-Type": "application/x-www-form-urlencoded"}),
        415,
        "unsupported_media_type",
    ),
    "another charset": (
        post("a", {"Content-Type": "text/plain; charset=latin-1"}),
        415,
        "unsupported_media_type",
    ),
    "a content encoding": (
        post("a", {**PLAIN, "Content-Encoding": "gzip"}),
        415,
        "unsupported_media_type",
    ),
    "a text that is a number": (body(text=5), 422, "invalid_request"),
    "a text that is a list": (body(text=["a"]), 422, "invalid_request"),
    "texts that are a text": (body(texts="a"), 422, "invalid_request"),
    "one of the texts is null": (body(texts=["a", None]), 422, "invalid_request"),
    "a version that is a text": (body(text="a", version="1"), 422, "invalid_request"),
    "a version that is true": (body(text="a", version=True), 422, "invalid_request"),
    "version zero": (body(text="a", version=0), 422, "invalid_request"),
    "a score that is a text": (body(text="a", min_score="0.5"), 422, "invalid_request"),
    "a score above one": (body(text="a", min_score=1.5), 422, "invalid_request"),
    "a score that is no number": (post('{"text": "a", "min_score": NaN}'), 422, "invalid_request"),
    "labels that are a text": (body(text="a", labels="PER"), 422, "invalid_request"),
    "another unit": (body(text="a", offset_unit="char"), 422, "invalid_request"),
    "a body that is a list": (post("[]"), 422, "invalid_request"),
    "a body that is null": (post("null"), 422, "invalid_request"),
    "an unknown field": (body(text="a", threshold=0.5), 422, "invalid_request"),
    "an unknown label": (body(text="a", labels=["PERSON"]), 422, "unknown_label"),
    "half a surrogate pair": (post('{"text": "a\\ud83d"}'), 422, "lone_surrogate"),
    "the other half": (post('{"texts": ["a", "\\uDE00 b"]}'), 422, "lone_surrogate"),
    "text and texts": (body(text="a", texts=["b"]), 422, "invalid_request"),
    "neither text nor texts": (body(model="ner-en"), 422, "invalid_request"),
    "a query with JSON": (post('{"text": "a"}', JSON, "?min_score=0.5"), 422, "invalid_request"),
    "an unknown query parameter": (post("a", PLAIN, "?threshold=1"), 422, "invalid_request"),
    "a query parameter given twice": (
        post("a", PLAIN, "?min_score=0&min_score=1"),
        422,
        "invalid_request",
    ),
    "a query parameter of the wrong kind": (post("a", PLAIN, "?version=one"), 422, "invalid_request"),
    "an unknown label in the query": (post("a", PLAIN, "?labels=PERSON"), 422, "unknown_label"),
    "a batch that the session fails on": (body(text=POISON), 500, "inference_failed"),
    "another method": (lambda server: server.client.get("/ner"), 405, "method_not_allowed"),
    "another path": (lambda server: server.client.post("/nerd"), 404, "not_found"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_has_its_status_its_code_and_an_id(server: Server, case: str) -> None:
    ask, status, code = ERRORS[case]
    answer = ask(server)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) == {"error", "code", "request_id"}
    assert answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] != ""
    assert answer.headers["Content-Type"] == "application/json"


def test_an_error_names_what_is_wrong(server: Server) -> None:
    def message(**fields: Any) -> str:
        return str(server.client.post("/ner", json=fields).json()["error"])

    assert message(text="a", threshold=1) == "threshold: there is no such field"
    assert message() == "give exactly one of 'text' and 'texts'"
    assert message(texts=["a", 5]).startswith("texts.1: ")
    assert "PER, ORG, LOC" in message(text="a", labels=["PERSON"])
    assert "ner-en has no version 99 (it has 1)" in message(text="a", version=99)


def test_whole_surrogate_pairs_are_characters(server: Server) -> None:
    answer = server.client.post(
        "/ner", content=b'{"text": "\\ud83d\\uddfc \\\\ud83d IBM"}', headers=JSON
    ).json()
    assert [entity["text"] for entity in answer["entities"]] == ["🗼", "IBM"]


def test_limits_are_inclusive(server: Server) -> None:
    assert server.client.post("/ner", json={"texts": ["a"] * 1_000}).status_code == 200
    exact = b'{"text": "a"}'.ljust(8 * 1024 * 1024)
    assert server.client.post("/ner", content=exact, headers=JSON).status_code == 200


def test_a_body_without_a_length_is_read_no_further_than_the_limit(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * 1024 * 1024

    answer = httpx.post(f"{server.url}/ner", content=chunks(), headers=JSON, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_what_fails_leaves_the_rest_alone(server: Server) -> None:
    assert server.client.post("/ner", json={"texts": ["IBM", POISON]}).status_code == 500
    assert spans(server.ner(TEXT)) == SPANS


def test_a_full_queue_is_429_with_a_time_to_come_again(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log", max_queue_tokens=1, max_batch_tokens=1) as small:
        big = {"texts": ["x " * 2000] * 6}
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: small.client.post("/ner", json=big), range(6)))
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["code"] == "overloaded"
                exact, told = answer.json()["retry_after"], int(answer.headers["Retry-After"])
                assert told == max(1, math.ceil(exact))
                ErrorBody.model_validate(answer.json(), strict=True)


# documentation


def test_every_option_is_documented_as_a_query_parameter(openapi: Any) -> None:
    parameters = openapi["paths"]["/ner"]["post"]["parameters"]
    assert {p["name"] for p in parameters if p["in"] == "query"} == {
        "model",
        "version",
        "labels",
        "min_score",
        "agreement",
        "offset_unit",
    }
    assert all(p["description"] for p in parameters)


def test_every_error_is_documented(openapi: Any) -> None:
    responses = openapi["paths"]["/ner"]["post"]["responses"]
    assert {str(status) for _, status, _ in ERRORS.values()} - {"405"} <= set(responses)
    for status, response in responses.items():
        if status != "200":
            assert response["description"]
            assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    codes = {code for _, status, code in ERRORS.values() if status != 405} - {"not_found"}
    documented = json.dumps(responses)
    assert {code for code in codes if code not in documented} == set()


def test_every_example_works(openapi: Any, server: Server) -> None:
    content = openapi["paths"]["/ner"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    assert len(examples) >= 2
    for example in examples.values():
        answer = server.client.post("/ner", json=example["value"])
        assert answer.status_code == 200, answer.text
    plain = server.client.post("/ner", content=content["text/plain"]["example"], headers=PLAIN)
    assert spans(plain.json()) == SPANS


# logs


MARKER = "Zaphodmarker"


@pytest.mark.parametrize("style", ["text", "json"])
def test_text_never_reaches_a_log(tmp_path: Path, style: str) -> None:
    models = tmp_path / "models"
    write_tiny_version(models)
    with serving(models, tmp_path / "log", log_level="debug", log_format=style, max_text_chars=500) as one:
        client = one.client
        for fields in (
            {"text": f"{MARKER} met Angela Merkel"},
            {"texts": [MARKER, f"{MARKER} {POISON}"]},
            {"text": f"{MARKER} {POISON}"},
            {"text": MARKER, "texts": [MARKER]},
            {"text": [MARKER]},
            {"texts": MARKER},
            {"text": "a", "labels": [MARKER]},
            {"text": "a", "model": MARKER},
            {"text": "a", "min_score": MARKER},
            {"text": "a", MARKER: MARKER},
            {"text": MARKER * 100},
        ):
            client.post("/ner", json=fields)
        for content in (f'{{"text": "{MARKER}', f'{{"text": "{MARKER}\\ud800"}}', MARKER):
            client.post("/ner", content=content, headers=JSON)
        client.post("/ner", content=MARKER.encode() + b"\xff", headers=JSON)
        for path in ("/ner", f"/ner?{MARKER}=1", f"/ner?version={MARKER}", f"/ner?text={MARKER}"):
            client.post(path, content=MARKER, headers=PLAIN)
        client.put("/models/ner-en/deployment", json={"stable": MARKER})
        assert len(one.client.post("/ner", json={"text": MARKER}).headers["X-Request-Id"]) == 32
        written = one.log.read_text()
    assert MARKER.lower() not in (written + one.log.read_text()).lower()
    assert written.count("POST") >= 18 if style == "text" else written.count('"POST"') >= 18
