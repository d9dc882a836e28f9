"""Around every request: its id, and its line in the log."""

import json
from pathlib import Path

import pytest

from tests.servers import Server, serving
from tests.tiny import TEXT


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
