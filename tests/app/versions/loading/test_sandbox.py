"""Trials: whatever a version does to the process that tries it, the one that asked goes on."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from app.errors import NotReady, VersionRefused
from app.versions.loading.loader import LoadOptions
from app.versions.loading.sandbox import NICE, trial
from tests.app.versions.loading.test_loader import BAD_FOLDERS, BAD_TEAMS, write_team
from tests.servers import until
from tests.tiny import tiny_graph, write_tiny_version

OPTIONS = LoadOptions(threads=1)


def endless() -> onnx.ModelProto:
    """The tiny network, which first counts for longer than anyone lives."""
    return with_zero(
        [
            helper.make_node("ReduceSum", ["looked_up"], ["some"], keepdims=0),
            helper.make_node("Mul", ["some", "none"], ["start"]),
            helper.make_node("Loop", ["many", "yes", "start"], ["counted"], body=adding("one")),
            helper.make_node("Mul", ["counted", "none"], ["zero"]),
        ],
        many=np.array(2**60),
        yes=np.array(True),
        one=np.array(1, np.float32),
        none=np.array(0, np.float32),
    )


def greedy() -> onnx.ModelProto:
    """The tiny network, which first fills four gigabytes."""
    return with_zero(
        [
            helper.make_node("ReduceSum", ["looked_up"], ["some"], keepdims=0),
            helper.make_node("Expand", ["some", "many"], ["filled"]),
            helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "none"], ["zero"]),
        ],
        many=np.array([2**30]),
        none=np.array(0, np.float32),
    )


def adding(what: str) -> onnx.GraphProto:
    """The body of a `Loop` that adds a constant to its sum again and again."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Add", ["sum", what], ["next"]),
        ],
        "count",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )


def with_zero(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """The tiny network, and nodes that make a `zero` of what was `looked_up`, added to the logits."""
    model = tiny_graph()
    model.graph.node[-1].output[0] = "without"
    model.graph.initializer.extend(from_array(value, name) for name, value in constants.items())
    model.graph.node.extend([*nodes, helper.make_node("Add", ["without", "zero"], ["logits"])])
    return model


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A version whose load never ends."""
    return write_tiny_version(tmp_path / "slow", graph=endless())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def trials(parent: int | None = None) -> list[psutil.Process]:
    """The processes that try something for this one, or another."""
    try:
        return [
            child
            for child in psutil.Process(parent).children()
            if child.status() != psutil.STATUS_ZOMBIE and "app.versions.loading.sandbox" in child.cmdline()
        ]
    except psutil.NoSuchProcess:
        return []


def begun(parent: int | None = None) -> psutil.Process:
    """The trial that runs, once it has given way to others and loads."""
    until(lambda: any(child.nice() >= NICE for child in trials(parent)))
    (child,) = trials(parent)
    return child


def test_a_version_that_passes_raises_nothing_and_leaves_nothing(models_dir: Path) -> None:
    trial(models_dir / "ner-en/1", OPTIONS)
    assert not trials()


@pytest.mark.parametrize("bad", ["no model file", "a wrong hash", "an ONNX file that does not parse"])
def test_a_version_that_fails_is_refused_as_a_load_would(tmp_path: Path, bad: str) -> None:
    spoil, reason = BAD_FOLDERS[bad]
    folder = write_tiny_version(tmp_path, version=7)
    spoil(folder)
    with pytest.raises(VersionRefused, match=reason) as refused:
        trial(folder, OPTIONS)
    assert refused.value.message.count("ner-en/7: ") == 1


def test_an_ensemble_is_tried_with_its_members_wherever_they_are(models_dir: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged/team/1"
    staged.parent.mkdir(parents=True)
    write_team(models_dir).rename(staged)
    trial(staged, OPTIONS, models=models_dir)
    spoil, reason = BAD_TEAMS["a member with a wrong file"]
    spoil(models_dir)
    with pytest.raises(VersionRefused, match=f"team/1: {reason}"):
        trial(staged, OPTIONS, models=models_dir)


def test_a_load_that_takes_too_long_is_ended(slow: Path) -> None:
    options = LoadOptions(threads=1, load_timeout=1.5)
    with pytest.raises(VersionRefused, match=r"ner-en/1: took longer than 1\.5 s .*NERVE_LOAD_TIMEOUT"):
        trial(slow, options)
    assert not trials()


def test_a_load_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_version(tmp_path, graph=greedy())
    options = LoadOptions(threads=1, load_memory_bytes=1 << 30)
    with pytest.raises(VersionRefused, match=r"ner-en/1: .*memory.*NERVE_LOAD_MEMORY_BYTES"):
        trial(folder, options)
    assert not trials()


def test_a_limit_too_low_for_anything_is_named(models_dir: Path) -> None:
    options = LoadOptions(threads=1, load_memory_bytes=1 << 20)
    with pytest.raises(VersionRefused, match=r"ner-en/1: .*1048576 bytes.*NERVE_LOAD_MEMORY_BYTES"):
        trial(models_dir / "ner-en/1", options)


@pytest.mark.parametrize(
    ("ended_by", "reason"),
    [
        (signal.SIGKILL, "signal SIGKILL: the machine or its container ran out of memory; give it more"),
        (signal.SIGSEGV, "signal SIGSEGV: a file of it is damaged, or .* export it again"),
    ],
)
def test_a_load_that_crashes_is_refused(
    slow: Path, pool: ThreadPoolExecutor, ended_by: signal.Signals, reason: str
) -> None:
    waiting: Future[None] = pool.submit(trial, slow, OPTIONS)
    begun().send_signal(ended_by)
    with pytest.raises(VersionRefused, match=f"ner-en/1: the process that loaded it ended with {reason}"):
        waiting.result()


def test_a_trial_ends_when_it_is_told_to(slow: Path, pool: ThreadPoolExecutor) -> None:
    stop = threading.Event()
    waiting: Future[None] = pool.submit(trial, slow, OPTIONS, stop=stop)
    child = begun()
    stop.set()
    with pytest.raises(NotReady, match="ner-en/1: was not checked to the end, the server is shutting down"):
        waiting.result()
    assert not child.is_running()


def test_a_trial_ends_with_the_process_that_asked(slow: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.versions.loading.sandbox import trial; "
        "from app.versions.loading.loader import LoadOptions; "
        "trial(Path(sys.argv[1]), LoadOptions(threads=1))"
    )
    asking = subprocess.Popen([sys.executable, "-c", program, str(slow)])
    child = begun(asking.pid)
    asking.kill()
    asking.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice is written down on Linux")
def test_a_trial_is_the_first_to_go(slow: Path, pool: ThreadPoolExecutor) -> None:
    stop = threading.Event()
    waiting: Future[None] = pool.submit(trial, slow, OPTIONS, stop=stop)
    child = begun()
    until(lambda: Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000")
    assert child.nice() == min(19, os.nice(0) + NICE)
    stop.set()
    with pytest.raises(NotReady):
        waiting.result()


def test_what_lies_in_the_working_folder_is_not_run(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").write_text("raise SystemExit('another app')")
    monkeypatch.chdir(tmp_path)
    trial(Path("models/ner-en/1"), OPTIONS)
