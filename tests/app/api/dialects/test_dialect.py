"""The seam: a dialect that knows the wire only gets everything else, and its errors have its own shape."""

from typing import Any

import pytest

from tests.app.api.toy import Client
from tests.tiny import POISON, SPANS, TEXT


def test_it_decodes_and_encodes_and_nothing_else(toy: Client) -> None:
    answer = toy.post("/toy/ner-en/labels", content=f"IBM\nnothing\n{TEXT}", headers={"toy-mark": "!"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/toy")
    assert answer.text == f"! ORG\n! \n! {' '.join(label for _, _, label in SPANS)}\n"
    assert answer.headers["x-request-id"]
    pinned = toy.post("/toy/ner-en/versions/1/labels?label=PER", content=TEXT)
    assert pinned.text == "- PER\n"


CASES: dict[str, tuple[str, dict[str, Any], int, str, int | None]] = {
    "no such model": ("/toy/nope/labels", {"content": "a"}, 404, "nope", 1),
    "no such version": ("/toy/ner-en/versions/9/labels", {"content": "a"}, 404, "no version 9", 1),
    "no such label": ("/toy/ner-en/labels?label=DOG", {"content": "a"}, 422, "no label 'DOG'", 1),
    "not decoded": ("/toy/ner-en/labels", {"content": b"\xff"}, 400, "no ASCII", None),
    "a bug": ("/toy/ner-en/labels", {"content": "bug"}, 500, "ZeroDivisionError", None),
    "a failing batch": ("/toy/ner-en/labels", {"content": POISON}, 500, "fail", 1),
    "too many texts": ("/toy/ner-en/labels", {"content": "a\n" * 10}, 413, "NERVE_MAX_TEXTS", 11),
    "too many bytes": ("/toy/ner-en/labels", {"content": b"a" * 100_001}, 413, "100000 bytes", None),
    "another media type": (
        "/toy/ner-en/labels",
        {"content": "a", "headers": {"Content-Type": "text/plain"}},
        415,
        "text/plain",
        None,
    ),
    "a wrong timeout": (
        "/toy/ner-en/labels",
        {"content": "a", "headers": {"X-Request-Timeout-Ms": "soon"}},
        422,
        "X-Request-Timeout-Ms 'soon'",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_its_errors_have_its_shape(toy: Client, case: str) -> None:
    path, sent, status, message, asked = CASES[case]
    answer = toy.post(path, **sent)
    assert answer.status_code == status
    assert set(answer.json()) == {"oops", "asked"}
    assert message in answer.json()["oops"]
    assert answer.json()["asked"] == asked


def test_its_other_routes_answer_by_themselves(toy: Client) -> None:
    assert toy.get("/toy/health").text == "fine"
    answer = toy.get("/toy/broken")
    assert (answer.status_code, answer.json()) == (404, {"oops": "nothing here", "asked": None})


def test_it_is_documented(toy: Client) -> None:
    paths = toy.get("/openapi.json").json()["paths"]
    assert paths["/toy/{model}/labels"]["post"]["tags"] == ["toy"]
    assert {"/toy/health", "/ner"} <= set(paths)
