"""Sandbox: whatever a version does to the process that loads it first, the one that asked goes on."""

import os
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app.errors import NotChecked, NotReady, VersionRefused
from app.versions.loading.confinement import NICE
from app.versions.loading.options import LoadOptions
from app.versions.loading.sandbox import sandbox_load
from tests.bad_versions import BAD_FOLDERS
from tests.servers import until
from tests.slow_graphs import endless, greedy
from tests.teams import BAD_TEAMS, write_team
from tests.tiny import write_tiny_version

OPTIONS = LoadOptions(threads=1)


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A version whose load never ends."""
    return write_tiny_version(tmp_path / "slow", graph=endless())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def loads(parent: int | None = None) -> list[psutil.Process]:
    """The processes that load something for this one, or another."""
    try:
        return [
            child
            for child in psutil.Process(parent).children()
            if child.status() != psutil.STATUS_ZOMBIE and "app.versions.loading.sandbox" in child.cmdline()
        ]
    except psutil.NoSuchProcess:
        return []


def begun(parent: int | None = None) -> psutil.Process:
    """The process that loads, once it has given way to others."""
    until(lambda: any(child.nice() >= NICE for child in loads(parent)))
    (child,) = loads(parent)
    return child


def just_before(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, statement: str) -> None:
    """Let the processes that load run a statement just before they open a file."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "def run(event, arguments):\n"
        f"    if event == 'open' and str(arguments[0]).endswith({file!r}):\n"
        f"        {statement}\n"
        "sys.addaudithook(run)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_version_that_passes_raises_nothing_and_leaves_nothing(models_dir: Path) -> None:
    sandbox_load(models_dir / "ner-en/1", OPTIONS)
    assert not loads()


@pytest.mark.parametrize("bad", ["no model file", "a wrong hash", "an ONNX file that does not parse"])
def test_a_version_that_fails_is_refused_as_a_load_would(tmp_path: Path, bad: str) -> None:
    spoil, reason = BAD_FOLDERS[bad]
    folder = write_tiny_version(tmp_path, version=7)
    spoil(folder)
    with pytest.raises(VersionRefused, match=reason) as refused:
        sandbox_load(folder, OPTIONS)
    assert refused.value.message.count("ner-en/7: ") == 1


def test_an_ensemble_is_tried_with_its_members_wherever_they_are(models_dir: Path, tmp_path: Path) -> None:
    staged = tmp_path / "staged/team/1"
    staged.parent.mkdir(parents=True)
    write_team(models_dir).rename(staged)
    sandbox_load(staged, OPTIONS, models=models_dir)
    spoil, reason = BAD_TEAMS["a member with a wrong file"]
    spoil(models_dir)
    with pytest.raises(VersionRefused, match=f"team/1: {reason}"):
        sandbox_load(staged, OPTIONS, models=models_dir)


def test_a_load_that_takes_too_long_is_ended(slow: Path) -> None:
    options = LoadOptions(threads=1, load_timeout=1.5)
    with pytest.raises(VersionRefused, match=r"ner-en/1: took longer than 1\.5 s .*NERVE_LOAD_TIMEOUT"):
        sandbox_load(slow, options)
    assert not loads()


def test_a_load_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_version(tmp_path, graph=greedy())
    options = LoadOptions(threads=1, load_memory_bytes=1 << 30)
    with pytest.raises(VersionRefused, match=r"ner-en/1: .*memory.*NERVE_LOAD_MEMORY_BYTES"):
        sandbox_load(folder, options)
    assert not loads()


def test_a_limit_too_low_for_anything_is_named(models_dir: Path) -> None:
    options = LoadOptions(threads=1, load_memory_bytes=1 << 20)
    with pytest.raises(VersionRefused, match=r"ner-en/1: .*1048576 bytes.*NERVE_LOAD_MEMORY_BYTES"):
        sandbox_load(models_dir / "ner-en/1", options)


def test_without_a_setting_a_load_may_take_what_is_usual_and_no_more(tmp_path: Path) -> None:
    folder = write_tiny_version(tmp_path, graph=greedy())
    with pytest.raises(VersionRefused, match=r"ner-en/1: needs more than the 2147483648 bytes of memory"):
        sandbox_load(folder, OPTIONS)


@pytest.mark.parametrize(
    "ended_by",
    [signal.SIGSEGV, signal.SIGABRT, signal.SIGXCPU],
)
def test_a_load_that_crashes_is_refused(
    slow: Path, pool: ThreadPoolExecutor, ended_by: signal.Signals
) -> None:
    waiting: Future[None] = pool.submit(sandbox_load, slow, OPTIONS)
    begun().send_signal(ended_by)
    reason = (
        f"ner-en/1: the process that loaded it ended with signal {ended_by.name}: a file of it is damaged"
    )
    with pytest.raises(VersionRefused, match=reason):
        waiting.result()


@pytest.mark.parametrize(
    "ended_by",
    [signal.SIGKILL, signal.SIGTERM, signal.SIGINT],
)
def test_a_load_that_somebody_ends_is_not_checked(
    slow: Path, pool: ThreadPoolExecutor, ended_by: signal.Signals
) -> None:
    waiting: Future[None] = pool.submit(sandbox_load, slow, OPTIONS)
    begun().send_signal(ended_by)
    reason = rf"ner-en/1: was not checked \(the process that loaded it ended with signal {ended_by.name}"
    with pytest.raises(NotChecked, match=reason):
        waiting.result()


@pytest.mark.skipif(sys.platform != "linux", reason="the state of a process is read as on Linux")
def test_a_load_that_somebody_stops_is_not_checked(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    just_before(
        tmp_path, monkeypatch, "manifest.json", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    )
    with pytest.raises(NotChecked, match=r"ner-en/1: was not checked .*somebody stopped"):
        sandbox_load(models_dir / "ner-en/1", LoadOptions(threads=1, load_timeout=3))
    assert not loads()


def test_signals_to_the_group_of_a_server_do_not_reach_a_load(slow: Path, pool: ThreadPoolExecutor) -> None:
    stop = threading.Event()
    waiting: Future[None] = pool.submit(sandbox_load, slow, OPTIONS, stop=stop)
    child = begun()
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
    stop.set()
    with pytest.raises(NotReady):
        waiting.result()


def test_where_no_process_can_be_started_nothing_is_known(models_dir: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            with pytest.raises(NotChecked, match=r"ner-en/1: was not checked \(no process can be started"):
                sandbox_load(models_dir / "ner-en/1", OPTIONS)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_ends_before_it_begins_says_nothing_of_the_version(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NotChecked, match=r"ner-en/1: was not checked \(the process .* exit code 3"):
        sandbox_load(models_dir / "ner-en/1", OPTIONS)


def test_a_process_that_lacks_files_says_nothing_of_the_version(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_files = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    just_before(tmp_path, monkeypatch, "model.fp32.onnx", no_files)
    with pytest.raises(NotChecked, match=r"ner-en/1: was not checked \(.*Too many open files"):
        sandbox_load(models_dir / "ner-en/1", OPTIONS)


def test_a_process_that_says_very_much_fills_no_memory(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "for _ in range(600): os.write(1, bytes(65536)), os.write(2, bytes(65536))\n"
        "os.write(2, b'the end'); os._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tracemalloc.start()
    try:
        with pytest.raises(VersionRefused, match=r"ended with exit code 1 \(.*the end\)"):
            sandbox_load(models_dir / "ner-en/1", OPTIONS)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_load_ends_when_it_is_told_to(slow: Path, pool: ThreadPoolExecutor) -> None:
    stop = threading.Event()
    waiting: Future[None] = pool.submit(sandbox_load, slow, OPTIONS, stop=stop)
    child = begun()
    stop.set()
    with pytest.raises(NotReady, match="ner-en/1: was not checked to the end, the server is shutting down"):
        waiting.result()
    assert not child.is_running()


def test_a_load_ends_with_the_process_that_asked(slow: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.versions.loading.sandbox import sandbox_load; "
        "from app.versions.loading.options import LoadOptions; "
        "sandbox_load(Path(sys.argv[1]), LoadOptions(threads=1))"
    )
    asking = subprocess.Popen([sys.executable, "-c", program, str(slow)])
    child = begun(asking.pid)
    asking.kill()
    assert asking.wait() == -signal.SIGKILL
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice is written down on Linux")
def test_the_process_is_the_first_to_go(slow: Path, pool: ThreadPoolExecutor) -> None:
    stop = threading.Event()
    waiting: Future[None] = pool.submit(sandbox_load, slow, OPTIONS, stop=stop)
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
    trapped = subprocess.run([sys.executable, "-c", "import app"], capture_output=True, check=False)
    assert b"another app" in trapped.stderr
    sandbox_load(Path("models/ner-en/1"), OPTIONS)  # it would raise what the trap does
