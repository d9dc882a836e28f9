import contextlib
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.servers import Server, serving, until
from tests.tiny import TEXT, edit_manifest, write_tiny_version

FAMILIES = {
    "nerve_workers": set(),
    "nerve_requests_total": {"route", "model", "version", "status"},
    "nerve_request_seconds_count": {"route", "model", "version", "status"},
    "nerve_requests_in_flight": set(),
    "nerve_texts_total": {"model", "version"},
    "nerve_entities_total": {"model", "version", "label"},
    "nerve_queue_tokens": {"model", "version"},
    "nerve_queue_seconds_count": {"model", "version"},
    "nerve_inference_seconds_count": {"model", "version"},
    "nerve_batch_rows_count": {"model", "version"},
    "nerve_batch_tokens_sum": {"model", "version"},
    "nerve_model_info": {"model", "version", "precision", "provider", "threads", "runs"},
    "nerve_model_load_seconds_count": {"model", "outcome"},
    "nerve_model_swap_total": {"model", "outcome"},
}


def connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 80), timeout=60)


def head(length: int) -> bytes:
    lines = ("POST /ner HTTP/1.1", "Host: nerve", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


def rest_of(connection: socket.socket) -> bytes:
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


def test_healthz_says_the_process_lives(server: Server) -> None:
    answer = server.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_readyz_says_the_default_model_answers(server: Server) -> None:
    answer = server.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


def test_without_a_model_the_process_lives_and_is_not_ready_until_one_comes(tmp_path: Path) -> None:
    models = tmp_path / "models"
    with serving(models, tmp_path / "log", ready=False) as server:
        assert server.client.get("/healthz").status_code == 200
        answer = server.client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert server.client.get("/models").json()["models"] == []
        broken = write_tiny_version(models)
        edit_manifest(broken, format_version=9)
        until(lambda: "format_version 9" in server.client.get("/readyz").text)
        answer = server.client.post("/ner", json={"text": "a"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        write_tiny_version(models, version=2)
        until(lambda: server.client.get("/readyz").status_code == 200)
        assert server.ner(TEXT)["version"] == 2


def test_metrics_have_the_families_and_labels(server: Server) -> None:
    server.ner(TEXT)
    answer = server.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    for name, labels in FAMILIES.items():
        (sample, *_) = re.findall(rf"^{name}(?:{{(.*)}})? ", answer.text, re.MULTILINE)
        assert set(re.findall(r'(\w+)="', sample)) == labels, name
    for line in answer.text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"\S+?(\{.*\})? [-+.0-9eEinfINFaN]+", line)


def test_metrics_count(server: Server) -> None:
    of = {"model": "ner-en", "version": "1"}
    counted = {
        "requests": lambda: server.metric("nerve_requests_total", route="/ner", status="200", **of),
        "seconds": lambda: server.metric("nerve_request_seconds_count", route="/ner", status="200", **of),
        "texts": lambda: server.metric("nerve_texts_total", **of),
        "people": lambda: server.metric("nerve_entities_total", label="PER", **of),
        "places": lambda: server.metric("nerve_entities_total", label="LOC", **of),
        "rows": lambda: server.metric("nerve_batch_rows_sum", **of),
        "tokens": lambda: server.metric("nerve_batch_tokens_sum", **of),
        "waits": lambda: server.metric("nerve_queue_seconds_count", **of),
    }
    before = {name: count() for name, count in counted.items()}
    server.client.post(
        "/ner", json={"texts": ["Angela Merkel", "Paris IBM Paris", ""], "labels": ["PER", "LOC"]}
    )
    until(lambda: counted["waits"]() == before["waits"] + 2)  # the last to be counted
    assert {name: count() - before[name] for name, count in counted.items()} == {
        "requests": 1,
        "seconds": 1,
        "texts": 3,
        "people": 1,
        "places": 0,
        "rows": 2,
        "tokens": 4 + (5 + 1 + 5 + 2),
        "waits": 2,
    }


def test_the_active_provider_is_told(server: Server) -> None:
    told = server.metric(
        "nerve_model_info", model="ner-en", precision="fp32", provider="CPUExecutionProvider", threads="1"
    )
    assert told == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_at_a_signal_running_requests_finish_and_the_exit_code_is_zero(
    models_dir: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    with serving(models_dir, tmp_path / "log") as server:
        body = b'{"text": "Angela Merkel"}'
        with connect(server) as running:
            running.sendall(head(len(body)) + body[:10])
            until(lambda: server.metric("nerve_requests_in_flight") == 2)  # this one, and /metrics
            server.process.send_signal(sent)
            until(lambda: "finishing requests" in server.log.read_text())
            with contextlib.suppress(httpx.TransportError):  # it may take no connections any more
                assert httpx.get(f"{server.url}/readyz").status_code == 503
            assert server.process.poll() is None
            running.sendall(body[10:])
            answer = rest_of(running)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"label":"PER"' in answer
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_caller_that_hangs_up_is_no_crash(server: Server) -> None:
    def left() -> float:
        return server.metric("nerve_requests_total", route="/ner", status="499")

    before = left()
    with connect(server) as caller:
        caller.sendall(head(1000) + b'{"text": "half')
        until(lambda: server.metric("nerve_requests_in_flight") == 2)
    until(lambda: left() == before + 1)
    assert "Traceback" not in server.log.read_text()
    assert server.metric("nerve_requests_in_flight") == 1
