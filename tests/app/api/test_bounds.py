"""What a request may ask for, and what large ones leave to others."""

import json
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from onnx import helper
from pydantic_core import to_json

from app.engine.decoding.entities import MANY
from tests.servers import Server, serving
from tests.slow_graphs import adding, with_zero
from tests.tiny import TEXT, write_tiny_version


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of tight limits, whose network is slow."""
    folder = tmp_path_factory.mktemp("narrow")
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask"], ["tokens"], keepdims=0),
        helper.make_node("Mul", ["tokens", "turns"], ["many"]),
        helper.make_node("Loop", ["many", "yes", "none"], ["zero"], body=adding("none")),
    ]
    numbers = {"turns": np.array(1_000), "yes": np.array(True), "none": np.array(0, np.float32)}
    write_tiny_version(folder / "models", graph=with_zero(nodes, **numbers))
    limits = {"max_request_chars": 100_000, "max_text_chars": 90_000, "request_timeout": 300}
    with serving(folder / "models", folder / "log", **limits) as server:
        yield server


def post(server: Server, texts: list[str], **headers: str) -> httpx.Response:
    with server.fresh_client() as client:
        return client.post("/ner", json={"texts": texts}, headers=headers)


def test_all_texts_of_a_request_have_a_limit(narrow: Server) -> None:
    answer = post(narrow, ["x" * 50_000, "y" * 50_001])
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_long")
    assert "100001 characters" in answer.json()["error"]
    assert "NERVE_MAX_REQUEST_CHARS" in answer.json()["error"]
    assert post(narrow, ["x" * 50_000, "y" * 50_000]).status_code == 200
    assert post(narrow, ["x" * 90_001]).json()["code"] == "text_too_long"


@pytest.mark.parametrize("given", ["9" * 5_000, "0" * 5_000 + "1", "0" * 5_000])
def test_a_timeout_of_thousands_of_digits_is_refused_and_not_repeated(server: Server, given: str) -> None:
    answer = post(server, [TEXT], **{"X-Request-Timeout-Ms": given})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["error"].startswith("X-Request-Timeout-Ms '")
    assert len(answer.json()["error"]) < 200


def test_what_cannot_be_done_in_time_is_refused_at_once_and_for_good(narrow: Server) -> None:
    assert post(narrow, ["a " * 3_000]).status_code == 200  # now it knows how slow the network is
    answer = post(narrow, ["a " * 44_000], **{"X-Request-Timeout-Ms": "1500"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_much_for_timeout"), answer.text
    assert "Retry-After" not in answer.headers
    assert "NERVE_REQUEST_TIMEOUT" in answer.json()["error"]
    assert "/ner/stream" in answer.json()["error"]


@pytest.mark.parametrize("labels", [["PER"] * 101, ["x" * 101]])
def test_labels_have_a_limit(server: Server, labels: list[str]) -> None:
    answer = server.client.post("/ner", json={"text": TEXT, "labels": labels})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["error"].startswith("labels")
    assert "at most 100 " in answer.json()["error"]
    query = httpx.QueryParams({"labels": labels})
    answer = server.client.post(f"/ner?{query}", content=TEXT, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422


def test_an_answer_of_many_entities_is_that_of_few(server: Server) -> None:
    """The same bytes as if they were made at once, whichever way they are made."""
    text = "é IBM " * (MANY + MANY // 2)
    options = {"offset_unit": "byte", "labels": ["ORG"], "min_score": 0.2, "agreement": True}
    one = server.client.post("/ner", json={"text": text, **options})
    entities = one.json()["entities"]
    assert [entity["start"] for entity in entities] == [3 + 7 * n for n in range(MANY + MANY // 2)]
    few = server.ner("é IBM", **options)
    assert few["entities"][0].keys() == entities[0].keys()
    head = {"model": "ner-en", "version": 1}
    result = {"windows": one.json()["windows"], "entities": entities}
    assert one.content == to_json(head | result)
    assert int(one.headers["Content-Length"]) == len(one.content)
    texts = ["IBM", text, "", text, *["IBM"] * 15, text]
    several = server.client.post("/ner", json={"texts": texts, **options})
    results = several.json()["results"]
    assert several.content == to_json(head | {"results": results})
    assert [len(one["entities"]) for one in results] == [
        *(1, 1_500, 0, 1_500),
        *[1] * 15,
        1_500,
    ]
    assert results[1] == results[3] == results[19] == result
    lines = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts))
    query = "/ner/stream?offset_unit=byte&labels=ORG&min_score=0.2&agreement=true"
    stream = server.client.post(query, content=lines, headers={"Content-Type": "application/x-ndjson"})
    answers = stream.content.splitlines()
    assert answers[:-1] == [to_json({"id": n} | one) for n, one in enumerate(results)]
    assert server.metric("nerve_entities_total", label="ORG") >= 3 * 1_500


def test_large_requests_do_not_hold_up_small_ones(server: Server) -> None:
    """None of them is refused."""
    bodies = [["Angela " * 10_000] * 2, ["!" * 40_000] * 2, ["x" * 100_000, "北" * 20_000]]
    ended = threading.Event()
    statuses: list[int] = []

    def large() -> None:
        with server.fresh_client() as client:
            statuses.extend(client.post("/ner", json={"texts": body}).status_code for body in bodies)
        ended.set()

    thread = threading.Thread(target=large)
    thread.start()
    small = []
    while not ended.wait(0.02):
        small.append(server.client.post("/ner", json={"text": f"{TEXT} " * 30}).status_code)
    thread.join()
    assert set(small) == {200}
    assert statuses == [200] * 3
