"""Networks of real graphs that come to no end with one word, watched with little patience."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from app.engine.model import Limits, Network
from app.errors import InferenceFailed, NotReady
from tests.networks import open_network
from tests.servers import until
from tests.slow_graphs import HANG, hanging
from tests.tiny import TEXT, write_tiny_version

LIMITS = Limits(batch_seconds=0.8)


def network_of(tmp_path: Path, graph: onnx.ModelProto, runs: int = 1) -> Network:
    return open_network(write_tiny_version(tmp_path, graph=graph), runs, limits=LIMITS)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = network_of(tmp_path, hanging())
    yield made
    made.close()


def test_a_batch_that_does_not_end_is_stopped_and_only_what_is_to_blame_fails(network: Network) -> None:
    first, *others = [network.submit([text]) for text in (HANG, TEXT, TEXT)]
    with pytest.raises(InferenceFailed, match="terminate"):
        first.result(60)
    assert all(other.result(60)[0].entities for other in others)
    assert (network.alive, network.failing, network.hung) == (True, False, False)


def test_three_in_a_row_show_that_the_session_hangs_and_what_waits_is_told_at_once(
    network: Network,
) -> None:
    for one in [network.submit([HANG] * 40) for _ in range(3)]:
        with pytest.raises((InferenceFailed, NotReady)):
            one.result(60)
    assert (network.alive, network.failing, network.hung) == (False, True, True)
    assert not network.waiting_tokens
    with pytest.raises(NotReady, match="hangs"):
        network.predict([TEXT])
    with pytest.raises(NotReady, match="hangs"):
        network.predict(["x " * 600])  # a reading thread reads it


def test_a_run_that_ends_by_itself_shows_that_the_session_works(network: Network) -> None:
    for text in (HANG, HANG, TEXT, HANG):
        if text == TEXT:
            network.predict([TEXT])
            continue
        with pytest.raises(InferenceFailed):
            network.predict([HANG])
    assert not network.failing


def test_a_session_that_does_not_stop_is_given_up_and_closing_leaves_it_behind(
    tmp_path: Path,
) -> None:
    program = """
import os, sys
from pathlib import Path
from app.errors import InferenceFailed, NotReady
from tests.app.engine.batching.test_watchdog import network_of
from tests.slow_graphs import HANG, stubborn
from tests.tiny import TEXT
network = network_of(Path(sys.argv[1]), stubborn())
for asked in [network.submit([text]) for text in (HANG, TEXT, TEXT)]:
    assert isinstance(asked.exception(60), (InferenceFailed, NotReady)), asked
assert not network.alive and network.hung
network.close()
print("closed", flush=True)
os._exit(0)
"""
    run = _run(program, tmp_path)
    assert (run.returncode, run.stdout) == (0, "closed\n"), run.stderr
    assert "its session hangs and is given up" in run.stderr
    assert "left behind because its session hangs" in run.stderr
    assert HANG not in run.stderr


def test_a_run_that_holds_up_its_caller_and_does_not_stop_ends_the_process(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from app.errors import InferenceFailed
from tests.app.engine.batching.test_watchdog import network_of
from tests.slow_graphs import HANG, stubborn
from tests.tiny import TEXT
network = network_of(Path(sys.argv[1]), stubborn())
while True:
    try:
        network.answer_now([HANG])
    except InferenceFailed:  # a busy machine let it be stopped before the operator that cannot be stopped
        network.predict([TEXT])
"""
    run = _run(program, tmp_path)
    assert run.returncode == 70
    assert "so this process ends" in run.stderr


def _run(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_a_run_here_is_stopped_and_the_next_one_is_left_to_the_runners(network: Network) -> None:
    assert network.answer_now([TEXT])
    with pytest.raises(InferenceFailed):
        network.answer_now([HANG])
    assert network.answer_now([TEXT]) is None
    network.predict([TEXT])
    until(lambda: network.answer_now([TEXT]))


def test_of_two_runs_only_the_one_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    network = network_of(tmp_path, hanging(), runs=2)
    hung = network.submit([HANG])
    while not hung.done():
        network.predict([TEXT])
    assert isinstance(hung.exception(), InferenceFailed)
    network.close()


def test_watching_takes_one_thread_for_all(tmp_path: Path, network: Network) -> None:
    other = network_of(tmp_path / "other", hanging())
    assert [thread.name for thread in threading.enumerate()].count("watchdog") == 1
    other.close()
