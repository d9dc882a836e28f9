"""Priority lets threads run only while no other thread wants the processor."""

import os
import sys
import threading
from contextlib import suppress

LOWEST = 19
"""Is the nice value of the lowest priority."""


def give_way(nice: int = LOWEST) -> None:
    """Lower the priority of the calling thread, and of the threads it starts from now on, for good.

    Only Linux has priorities of single threads; on other systems this does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # it is lower already, and raising it is not allowed
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
