"""Memory: what was freed goes back to the operating system."""

import ctypes


def give_memory_back() -> None:
    """Return freed memory to the operating system.

    It is kept for later otherwise: a process that loads and closes versions of some ten megabytes
    grows by as much again and again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
