"""What a process knows of its machine, and how others on it know the process."""

import os
import subprocess
import sys

import pytest

from app.machine import SERVER_ID, available_cpus, host, process_start, server_id
from tests.servers import until


def test_cpus_are_those_the_process_may_use() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_the_cgroup_limits_them_further(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("app.machine._cgroup_quota", lambda: quota)
    assert available_cpus() == cpus


def test_a_process_has_one_start_as_long_as_it_lives() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    assert started
    assert started == process_start(process.pid)
    assert started != process_start(os.getpid())
    process.kill()
    until(lambda: process_start(process.pid) == "")  # a zombie, which nobody has waited for, is dead
    process.wait()
    assert process_start(process.pid) == ""


def test_the_host_and_the_server_stay_the_same_within_a_process() -> None:
    assert host() == host()
    assert server_id() == server_id()


def test_processes_of_one_server_learn_its_id_from_the_environment() -> None:
    program = "from app.machine import server_id; print(server_id())"
    environment = {key: value for key, value in os.environ.items() if key != SERVER_ID}
    told, alone, other = (
        subprocess.run(
            [sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True
        ).stdout.strip()
        for given in (environment | {SERVER_ID: "this"}, environment, environment)
    )
    assert told == "this"
    assert alone != other
