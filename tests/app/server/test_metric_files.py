"""Files that processes have written which really ran and ended, read together and folded."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from prometheus_client import CollectorRegistry, generate_latest

from app.server.metric_files import FOLDER, AllWorkers, ServerProcesses, fold_dead, metrics_folder
from tests.servers import sample_sum, until

COUNTS = """
from app.metrics import Metrics
metrics = Metrics()
metrics.in_flight.inc()
metrics.texts.labels("ner-en", "1").inc(3)
for seconds in (0.25, 0.5, 64):
    metrics.queue_seconds.labels("ner-en", "1").observe(seconds)
print("counted", flush=True)
input()
"""


def worker(folder: Path, code: str = COUNTS) -> subprocess.Popen[str]:
    """A process that counts, and lives until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {FOLDER: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "counted\n"
    return process


def zombie(process: subprocess.Popen[str]) -> bool:
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)


def told(folder: Path) -> str:
    registry = CollectorRegistry()
    registry.register(AllWorkers(folder))
    return generate_latest(registry).decode()


def figures(folder: Path) -> dict[str, float]:
    text = told(folder)
    names = ("texts_total", "requests_in_flight", *(f"queue_seconds_{part}" for part in ("count", "sum")))
    found = {name: sample_sum(text, f"nerve_{name}", {}) for name in names}
    buckets = {
        le: sample_sum(text, "nerve_queue_seconds_bucket", {"le": le}) for le in ("0.25", "30.0", "+Inf")
    }
    return found | buckets


def each(count: int, living: int) -> dict[str, float]:
    """What `count` processes have counted, of which some live."""
    return {
        "texts_total": 3 * count,
        "requests_in_flight": living,
        "queue_seconds_count": 3 * count,
        "queue_seconds_sum": 64.75 * count,
        "0.25": count,
        "30.0": 2 * count,
        "+Inf": 3 * count,
    }


def test_dead_ones_are_folded_and_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    living = worker(tmp_path)
    for number in range(1, 4):
        dead = worker(tmp_path)
        assert figures(tmp_path) == each(number + 1, living=2)
        dead.kill()
        until(partial(zombie, dead))
        assert figures(tmp_path) == each(number + 1, living=1)  # its gauges are gone at once
        dead.communicate()
        for _ in range(2):
            fold_dead(tmp_path, {living.pid})
            assert figures(tmp_path) == each(number + 1, living=1)
            assert {path.name for path in tmp_path.glob("*.*")} == {
                *(f"{kind}_{living.pid}.db" for kind in ("counter", "histogram", "gauge_livesum")),
                "counter_archive.db",
                "histogram_archive.db",
            }
    living.communicate("\n")
    fold_dead(tmp_path, set())
    assert figures(tmp_path) == each(4, living=0)


def test_an_archive_keeps_the_size_of_what_it_holds(tmp_path: Path) -> None:
    sizes = []
    for _ in range(3):
        worker(tmp_path).communicate("\n")
        fold_dead(tmp_path, set())
        sizes.append((tmp_path / "histogram_archive.db").stat().st_size)
    assert sizes[0] == sizes[1] == sizes[2]


def test_what_died_as_it_began_does_no_harm(tmp_path: Path) -> None:
    worker(tmp_path).communicate("\n")
    dead = next(tmp_path.glob("counter_*")).stem.partition("_")[2]
    for name in (f"counter_{dead}1.db", f"histogram_{dead}1.db", f"gauge_livesum_{dead}1.db"):
        (tmp_path / name).touch()
    assert figures(tmp_path) == each(1, living=0)
    fold_dead(tmp_path, set())
    assert figures(tmp_path) == each(1, living=0)
    assert len(list(tmp_path.glob("*.db"))) == 2


def test_folding_waits_for_a_reader_and_gives_up_in_the_end(tmp_path: Path) -> None:
    worker(tmp_path).communicate("\n")
    before = sorted(tmp_path.glob("*.db"))
    with FileLock(tmp_path / "lock"), pytest.raises(OSError, match="lock"):
        fold_dead(tmp_path, set())
    assert sorted(tmp_path.glob("*.db")) == before
    fold_dead(tmp_path, set())
    assert figures(tmp_path) == each(1, living=0)


def test_processes_are_summed_and_the_cpu_time_of_dead_ones_stays(tmp_path: Path) -> None:
    burn = f"{COUNTS.rpartition('input()')[0]}sum(range(20_000_000))\nprint('burnt', flush=True)\ninput()"
    workers = [worker(tmp_path, burn) for _ in range(2)]
    for process in workers:
        assert process.stdout
        assert process.stdout.readline() == "burnt\n"
    registry = CollectorRegistry()
    registry.register(ServerProcesses(tmp_path, os.getpid()))

    def value(name: str) -> float:
        return sample_sum(generate_latest(registry).decode(), f"process_{name}", {})

    all_of_them = [psutil.Process(pid) for pid in (os.getpid(), *(process.pid for process in workers))]
    resident = sum(process.memory_info().rss for process in all_of_them)
    assert value("resident_memory_bytes") == pytest.approx(resident, rel=0.05)
    assert value("open_fds") == sum(process.num_fds() for process in all_of_them)
    assert value("start_time_seconds") == pytest.approx(all_of_them[0].create_time(), abs=1)
    before = value("cpu_seconds_total")
    workers[0].kill()
    workers[0].communicate()
    assert value("cpu_seconds_total") >= before
    assert value("resident_memory_bytes") < resident
    workers[1].communicate("\n")
    assert value("cpu_seconds_total") >= before


OWNER = """
import time
from app.server.metric_files import metrics_folder

with metrics_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def owner(scratch: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder for metrics, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_server_that_was_killed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    victim, left = owner(tmp_path)
    living, kept = owner(tmp_path)
    others = tmp_path / "nerve-metrics-of-others"
    others.mkdir()
    try:
        victim.kill()
        victim.communicate()
        assert left.is_dir()
        with metrics_folder() as ours:
            assert {*tmp_path.iterdir()} == {kept, ours, others}
            os.utime(others, (1, 1))  # nobody will make it theirs any more
            with metrics_folder():
                assert ours.is_dir()
                assert kept.is_dir()
                assert not others.exists()
    finally:
        living.kill()
        living.communicate()
    with metrics_folder():
        pass
    assert list(tmp_path.iterdir()) == []
