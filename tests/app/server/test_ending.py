"""A process ends after a signal although something hangs in it: its event loop, a batch, its closing."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import onnx
import psutil
import pytest

from tests.servers import serving
from tests.slow_graphs import HANG, endless, hanging
from tests.tiny import write_tiny_version

LOOP = """
import asyncio, signal, sys
import numpy as np, onnxruntime, uvloop
from app.server.ending import end_in_time
from app.server.logs import configure_logging

configure_logging("info", "text")
session = onnxruntime.InferenceSession(sys.argv[1])
ids = np.ones((1, 3), np.int64)

def heard(sig, frame):
    print("handler", flush=True)

async def main():
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, heard)
    end_in_time(float(sys.argv[2]), sys.argv[3] == "impatient")
    print("started", flush=True)
    if sys.argv[4] == "hang":
        session.run(None, {"input_ids": ids, "attention_mask": ids})
    while True:
        await asyncio.sleep(60)

uvloop.run(main())
"""


@contextmanager
def running(graph: Path, seconds: float, how: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends in time; its main thread hangs in a library, or waits for the event loop."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(graph), str(seconds), how, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that never ends."""
    path = tmp_path_factory.mktemp("graph") / "endless.onnx"
    onnx.save(endless(), path)
    return path


def test_a_process_that_hangs_ends_when_its_time_is_over(graph: Path) -> None:
    with running(graph, 0.5, "patient", "hang") as process:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 124
    assert "not ended within 0.5 s after the signal; something hangs" in said


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_hangs_ends_at_a_second_signal(graph: Path, second: signal.Signals) -> None:
    with running(graph, 600, "impatient", "hang") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # some send one twice
        time.sleep(0.7)
        assert process.poll() is None
        process.send_signal(second)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + second
    assert f"second signal ({second.name})" in said


def test_an_event_loop_that_waits_hears_of_each_signal(graph: Path) -> None:
    with running(graph, 600, "patient", "wait") as process:
        assert process.stdout
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "handler\n"
        assert process.poll() is None


@pytest.mark.parametrize(("workers", "second"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_server_with_a_session_that_hangs_ends_at_the_second_signal(
    tmp_path: Path, workers: int, second: signal.Signals
) -> None:
    write_tiny_version(tmp_path / "models", graph=hanging())
    with serving(tmp_path / "models", tmp_path / "log", workers=workers, request_timeout=600) as server:
        body = {"text": HANG}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/ner", json=body, timeout=0.5)
        processes = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.2)  # the supervisor looks twice a second
        assert server.process.poll() is None
        server.process.send_signal(second)
        assert server.process.wait(60) == 128 + second
        assert f"second signal ({second.name})" in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
        assert psutil.wait_procs(processes, timeout=60)[1] == []
