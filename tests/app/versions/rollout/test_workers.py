import json
import os
import subprocess
import sys
import time
from pathlib import Path

from app.machine import process_start, server_id
from app.versions.rollout.workers import ModelReport, Workers

REPORTING = """
import sys
from pathlib import Path
from app.versions.rollout.workers import ModelReport, Workers
Workers(Path(sys.argv[1])).report({"ner-en": ModelReport(generation=int(sys.argv[2]), stable=1)})
print("told", flush=True)
sys.stdin.read()
"""


def worker(state: Path, generation: int) -> subprocess.Popen[str]:
    """A process that has reported a generation, and lives until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", REPORTING, str(state), str(generation)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "told\n"
    return process


def test_a_report_is_there_until_it_is_removed(tmp_path: Path) -> None:
    own = Workers(tmp_path)
    models = {"ner-en": ModelReport(generation=3, stable=2, canary=4, shadow=(5,))}
    own.report(models)
    (found,) = Workers(tmp_path).read()
    assert (found.pid, found.server, found.models) == (os.getpid(), server_id(), models)
    own.remove()
    assert Workers(tmp_path).read() == []


def test_what_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    own = Workers(tmp_path)
    own.report({"ner-en": ModelReport(generation=3)})
    (path,) = (tmp_path / "workers").iterdir()
    before = path.stat().st_ino
    own.report({"ner-en": ModelReport(generation=3)})
    assert path.stat().st_ino == before
    own.report({"ner-en": ModelReport(generation=4)})
    assert Workers(tmp_path).lagging("ner-en", 4) == []


def test_a_killed_process_leaves_no_report(tmp_path: Path) -> None:
    process = worker(tmp_path, 1)
    assert [report.pid for report in Workers(tmp_path).read()] == [process.pid]
    process.kill()
    process.wait()
    assert Workers(tmp_path).read() == []
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_number_that_another_process_took_over_is_no_sign_of_life(tmp_path: Path) -> None:
    Workers(tmp_path).report({})
    (path,) = (tmp_path / "workers").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "1"}))
    assert process_start(os.getpid()) != "1"
    assert Workers(tmp_path).read() == []


def test_a_silent_process_of_another_machine_is_gone_after_a_while(tmp_path: Path) -> None:
    Workers(tmp_path).report({})
    (path,) = (tmp_path / "workers").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere/1", "pid": 1}))
    assert len(Workers(tmp_path).read()) == 1
    os.utime(path, (time.time() + 3600, time.time() + 3600))  # as where the clock went back
    assert len(Workers(tmp_path).read()) == 1
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    assert Workers(tmp_path).read() == []


def test_who_lags_and_why(tmp_path: Path) -> None:
    Workers(tmp_path).report({"ner-en": ModelReport(generation=2, problem="ner-en/2: model is missing")})
    process = worker(tmp_path, 1)
    try:
        found = {
            int(one.worker.rpartition(":")[2]): one.reason for one in Workers(tmp_path).lagging("ner-en", 2)
        }
        assert found == {os.getpid(): "ner-en/2: model is missing", process.pid: "has not followed yet"}
        mine = Workers(tmp_path).lagging("ner-en", 2, server_id())
        assert [one.reason for one in mine] == ["ner-en/2: model is missing"]
        assert len(Workers(tmp_path).wait("ner-en", 2, seconds=0.1)) == 2
        assert [one.worker for one in Workers(tmp_path).lagging("ner-en", 1)] == [mine[0].worker]
    finally:
        process.kill()
        process.wait()
