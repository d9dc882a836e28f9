import os
import sys
import threading

import pytest

from app.engine.priority import LOWEST, give_way


@pytest.mark.skipif(sys.platform != "linux", reason="a priority of a thread is Linux's")
def test_a_thread_gives_way_and_no_other_does() -> None:
    found: list[int] = []

    def run() -> None:
        give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [LOWEST]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours
