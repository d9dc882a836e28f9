"""Requests that are not waited for any longer: a deadline passes, or the caller hangs up."""

import json
import socket
import threading
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.servers import Server, serving, until
from tests.slow_graphs import adding, with_zero
from tests.tiny import TEXT, VOCABULARY, write_tiny_version

SLOW = "apple"
"""Each one of this word in a batch makes the network of `slow` count for a good while."""


def slow() -> onnx.ModelProto:
    """The tiny network, which first counts for as long as the batch has slow words."""
    return with_zero(
        [
            helper.make_node("Equal", ["input_ids", "slow"], ["found"]),
            helper.make_node("Cast", ["found"], ["ones"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["ones"], ["words"], keepdims=0),
            helper.make_node("Mul", ["words", "turns"], ["many"]),
            helper.make_node("Loop", ["many", "yes", "none"], ["zero"], body=adding("none")),
        ],
        slow=np.array(VOCABULARY.index(SLOW)),
        turns=np.array(100_000),
        yes=np.array(True),
        none=np.array(0, np.float32),
    )


def post(server: Server, texts: list[str], **headers: str) -> httpx.Response:
    with server.fresh_client() as client:
        return client.post("/ner", json={"texts": texts}, headers=headers)


def after(milliseconds: int) -> dict[str, str]:
    return {"X-Request-Timeout-Ms": str(milliseconds)}


def raw_post(server: Server, body: bytes, length: int, **headers: str) -> socket.socket:
    """A connection on which a request has been sent, of a body of this length or the beginning of it."""
    url = httpx.URL(server.url)
    headers |= {"Host": "nerve", "Content-Type": "application/json", "Content-Length": str(length)}
    lines = ["POST /ner HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    connection = socket.create_connection((url.host, url.port or 80), timeout=60)
    connection.sendall("\r\n".join(lines).encode() + body)
    return connection


def test_at_its_deadline_a_request_is_504(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models", graph=slow())
    with serving(tmp_path / "models", tmp_path / "log") as server:
        answer = post(server, [f"{SLOW} " * 5], **after(50))
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
        assert "X-Request-Timeout-Ms" in answer.json()["error"]
        assert post(server, [TEXT], **after(60_000)).status_code == 200


def test_a_request_that_names_no_deadline_has_the_servers(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models", graph=slow())
    with serving(tmp_path / "models", tmp_path / "log", request_timeout=0.05) as server:
        assert post(server, [f"{SLOW} " * 5]).status_code == 504
        until(lambda: server.metric("nerve_batch_rows_count") == 1)
        assert post(server, [f"{SLOW} " * 5], **after(600_000)).status_code == 504, (
            "it cannot be lengthened"
        )


def test_a_body_that_does_not_come_is_504(server: Server) -> None:
    with raw_post(server, b'{"text": ', length=100, **after(50)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("given", ["0", "000", "-1", "1.5", "1e3", "+5", "soon", "", "10000000000"])
def test_a_timeout_is_a_positive_whole_number(server: Server, given: str) -> None:
    answer = post(server, [TEXT], **{"X-Request-Timeout-Ms": given})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["error"].startswith(f"X-Request-Timeout-Ms {given!r}: ")


def test_zero_sets_no_limit(models_dir: Path, tmp_path: Path) -> None:
    with serving(models_dir, tmp_path / "log", request_timeout=0) as server:
        assert server.ner(TEXT)["entities"]


def test_the_timeout_is_documented(server: Server) -> None:
    operation = server.client.get("/openapi.json").json()["paths"]["/ner"]["post"]
    (header,) = [parameter for parameter in operation["parameters"] if parameter["in"] == "header"]
    assert header["name"] == "X-Request-Timeout-Ms"
    assert "NERVE_REQUEST_TIMEOUT" in header["description"]
    assert "deadline_exceeded" in operation["responses"]["504"]["description"]


def test_what_a_caller_who_hangs_up_has_asked_for_is_not_run(tmp_path: Path) -> None:
    write_tiny_version(tmp_path / "models", graph=slow())
    with serving(tmp_path / "models", tmp_path / "log", max_batch_tokens=1) as server:
        first = threading.Thread(target=post, args=(server, [f"{SLOW} " * 20]))
        first.start()
        until(lambda: server.metric("nerve_requests_in_flight") == 2)  # it, and who asks for metrics
        body = json.dumps({"texts": [SLOW] * 50}).encode()
        with raw_post(server, body, len(body)):
            until(lambda: server.metric("nerve_queue_tokens") > 0)
        until(lambda: server.metric("nerve_requests_total", route="/ner", status="499") == 1)
        first.join()
        assert post(server, [TEXT]).status_code == 200
        until(lambda: server.metric("nerve_queue_tokens") == 0)
        assert server.metric("nerve_batch_rows_sum") < 25
        assert server.metric("nerve_requests_total", route="/ner", status="200") == 2
        assert "POST /ner 499" in server.log.read_text()
