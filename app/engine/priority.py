"""Priority: threads that run only while nothing else wants the processor."""

import os
import sys
import threading
from contextlib import suppress

LOWEST = 19
"""The nice value that gives way to every other."""


def give_way(nice: int = LOWEST) -> None:
    """Lower the priority of the calling thread and of those it starts from here on, for good.

    Only Linux knows a priority of a single thread; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # its priority is lower already
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
