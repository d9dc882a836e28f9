import os

from app.machine import available_cpus


def test_cpus_are_those_the_process_may_use() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))
