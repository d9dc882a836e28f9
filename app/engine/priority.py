"""Priority: threads that run only where nothing else wants the processor."""

import os
import sys
import threading
from contextlib import suppress

LOWEST = 19
"""The nice value that gives way to every other."""


def give_way(nice: int = LOWEST) -> None:
    """Lower the priority of the calling thread and of those it starts from here on, for good.

    Only Linux knows a priority of a thread; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # it was lower already
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
