"""Metrics of a whole server: of one process, and of workers that are killed."""

import re
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from app.engine.decoding.entities import Entity, Prediction
from app.metrics import Metrics
from tests.servers import Server, sample_sum, serving, until
from tests.tiny import TEXT, write_tiny_version


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Iterator[Server]:
    """A server of two workers; tests may kill workers."""
    folder = tmp_path_factory.mktemp("pair")
    write_tiny_version(folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        with serving(folder / "models", folder / "log", workers=2) as server:
            yield server


def kill_one(server: Server, victim: int) -> None:
    """Kill a worker and wait until another has its place."""
    psutil.Process(victim).kill()
    until(lambda: len(server.pids) == 2 and victim not in server.pids)

    def two() -> bool:
        with server.fresh_client() as client:
            return sample_sum(client.get("/metrics").text, "nerve_workers", {}) == 2

    until(two)


def owner(server: Server, connection: socket.socket) -> int:
    """The worker that took a connection."""
    port = connection.getsockname()[1]

    def found() -> list[int]:
        return [
            pid
            for pid in server.pids
            if any(c.raddr and c.raddr.port == port for c in psutil.Process(pid).net_connections())
        ]

    until(found)
    return found()[0]


def metric(server: Server, name: str, **labels: str) -> float:
    with server.fresh_client() as client:
        return sample_sum(client.get("/metrics").text, name, labels)


def test_sums_over_workers_are_exact_whoever_is_asked(pair: Server) -> None:
    def told(client: httpx.Client) -> tuple[float, ...]:
        text = client.get("/metrics").text
        return (
            sample_sum(text, "nerve_texts_total", {"version": "1"}),
            sample_sum(text, "nerve_requests_total", {"route": "/ner", "status": "200"}),
            sample_sum(text, "nerve_request_seconds_count", {"route": "/ner"}),
            sample_sum(text, "nerve_requests_in_flight", {}),
            sample_sum(text, "nerve_workers", {}),
            sample_sum(text, "nerve_model_info", {"model": "ner-en"}),
        )

    with pair.clients(20) as clients:
        texts, requests, seconds, *_ = told(clients[0])
        for client in clients * 3:
            assert client.post("/ner", json={"texts": [TEXT, "Paris"]}).status_code == 200
        expected = (texts + 120, requests + 60, seconds + 60, 1, 2, 2)
        until(lambda: told(clients[0]) == expected)  # a request is counted after its answer
        for client in clients:
            until(partial(lambda client: told(client) == expected, client))


def test_the_exposition_is_well_formed(pair: Server) -> None:
    pair.ner(TEXT)
    text = pair.client.get("/metrics").text
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"\S+?(\{.*\})? [-+.0-9eEinfINFaN]+", line)
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(families) == len(set(families))
    assert "pid=" not in text
    assert {"python_info", "process_resident_memory_bytes", "nerve_queue_tokens"} <= set(families)


STAGES = ("parse", "tokenize", "queue", "run", "decode", "render")


def test_the_seconds_of_every_stage_are_counted(pair: Server) -> None:
    def seconds() -> list[float]:
        return [metric(pair, "nerve_stage_seconds_total", model="ner-en", stage=s) for s in STAGES]

    before = seconds()
    assert pair.client.post("/ner", json={"texts": [TEXT] * 20}).status_code == 200
    until(lambda: all(new > old for new, old in zip(seconds(), before, strict=True)))
    told = sum(seconds())
    assert metric(pair, "nerve_stage_seconds_total") == pytest.approx(told)  # and no other stage


def test_what_each_worker_counts_for_itself_says_so(pair: Server) -> None:
    text = pair.client.get("/metrics").text
    for family in ("nerve_model_swap_total", "nerve_model_load_seconds"):
        (meaning,) = re.findall(f"^# HELP {family} (.+)", text, re.MULTILINE)
        assert meaning.endswith("each worker counts its own")
    assert metric(pair, "nerve_model_swap_total", model="ner-en", outcome="swapped") == 2


def test_counts_survive_killed_workers_and_their_files_do_not_pile_up(pair: Server, scratch: Path) -> None:
    (folder,) = scratch.iterdir()
    names = ("nerve_texts_total", "nerve_entities_total", "nerve_request_seconds_count")
    for _ in range(3):
        with pair.clients(10) as clients:
            for client in clients:
                client.post("/ner", json={"text": TEXT})
        until(lambda: metric(pair, "nerve_requests_in_flight") == 1)  # counted, all of them
        before = [metric(pair, name, model="ner-en") for name in names]
        kill_one(pair, pair.pids[0])
        assert [metric(pair, name, model="ner-en") for name in names] == before
        own = {
            f"{kind}_{pid}.db" for pid in pair.pids for kind in ("counter", "histogram", "gauge_livesum")
        }
        kept = {"counter_archive.db", "histogram_archive.db", "lock", "owner"}
        loaded = {f"loaded_{pid}" for pid in pair.pids}
        assert {path.name for path in folder.iterdir()} - loaded == own | kept


def test_while_workers_are_killed_no_count_falls_and_no_look_fails(pair: Server) -> None:
    done, seen = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            try:
                with pair.fresh_client() as client:
                    answer = client.get("/metrics")
            except httpx.TransportError:  # of the one that was killed
                continue
            seen.append((answer.status_code, sample_sum(answer.text, "nerve_texts_total", {})))

    with pair.fresh_client() as client:
        client.post("/ner", json={"text": TEXT})
    until(lambda: metric(pair, "nerve_requests_in_flight") == 1)
    looker = threading.Thread(target=look)
    looker.start()
    for victim in pair.pids:
        kill_one(pair, victim)
    done.set()
    looker.join()
    assert len(seen) > 20
    assert {status for status, _ in seen} == {200}
    assert len({total for _, total in seen}) == 1


def test_requests_of_a_killed_worker_are_in_flight_no_more(pair: Server) -> None:
    url = httpx.URL(pair.url)
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        lines = ("POST /ner HTTP/1.1", "Host: nerve", "Content-Type: application/json")
        connection.sendall("\r\n".join((*lines, "Content-Length: 100", "", "{")).encode())
        until(lambda: metric(pair, "nerve_requests_in_flight") == 2)
        kill_one(pair, owner(pair, connection))
        assert metric(pair, "nerve_requests_in_flight") == 1
    assert metric(pair, "nerve_model_info", model="ner-en") == 2


def test_the_process_metrics_are_of_the_whole_server(pair: Server) -> None:
    processes = [psutil.Process(pid) for pid in (pair.process.pid, *pair.pids)]
    told = metric(pair, "process_resident_memory_bytes")
    assert told == pytest.approx(sum(process.memory_info().rss for process in processes), rel=0.1)
    assert metric(pair, "process_start_time_seconds") == pytest.approx(processes[0].create_time(), abs=1)
    before = metric(pair, "process_cpu_seconds_total")
    kill_one(pair, pair.pids[1])
    assert metric(pair, "process_cpu_seconds_total") >= before


def test_one_process_leaves_no_files(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with serving(models_dir, tmp_path / "log") as server:
        server.ner(TEXT)
        assert server.metric("nerve_texts_total") == 1
        assert list((tmp_path / "scratch").iterdir()) == []
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


# in this process


def total(metrics: Metrics, name: str, **labels: str) -> float:
    return sum(sample.value for sample in metrics.samples(name, **labels))


def test_samples_are_found_by_name_and_labels() -> None:
    metrics = Metrics()
    for label, count in (("PER", 2), ("ORG", 3)):
        metrics.entities.labels("ner-en", "1", label).inc(count)
    metrics.entities.labels("ner-en", "2", "PER").inc(5)
    assert total(metrics, "nerve_entities_total") == 10
    assert total(metrics, "nerve_entities_total", version="1") == 5
    assert total(metrics, "nerve_entities_total", version="1", label="ORG") == 3
    assert metrics.samples("nerve_entities_total", version="9") == []
    assert metrics.samples("nerve_nothing_total") == []
    metrics.texts.labels("ner-en", "1").inc(4)
    several = metrics.samples("nerve_entities_total", "nerve_texts_total", version="1")
    assert sorted((sample.name, sample.value) for sample in several) == [
        ("nerve_entities_total", 2),
        ("nerve_entities_total", 3),
        ("nerve_texts_total", 4),
    ]
    metrics.request_seconds.labels("/ner", "ner-en", "1", "200").observe(0.25)
    assert total(metrics, "nerve_request_seconds_bucket", le="0.25") == 1
    assert total(metrics, "nerve_request_seconds_count", version="1") == 1


def test_answers_are_counted_by_text_and_label() -> None:
    metrics = Metrics()
    entities = (Entity(0, 1, "PER", 0.65), Entity(2, 3, "ORG", 1.0))
    predictions = [Prediction(entities, 1), Prediction((), 0), Prediction(entities[:1], 1)]
    metrics.answered("ner-en", "1", predictions)
    assert total(metrics, "nerve_texts_total", model="ner-en", version="1") == 3
    assert total(metrics, "nerve_entities_total", label="PER") == 2
    assert total(metrics, "nerve_entities_total", label="ORG") == 1
    assert total(metrics, "nerve_entity_score_sum", label="PER") == pytest.approx(1.3)
    assert total(metrics, "nerve_entity_score_bucket", label="PER", le="0.6") == 0
    assert total(metrics, "nerve_entity_score_bucket", label="PER", le="0.7") == 2
