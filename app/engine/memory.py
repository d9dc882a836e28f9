"""Memory: what a closed version leaves behind goes back to the operating system."""

import ctypes


def give_memory_back() -> None:
    """Return freed memory to the operating system, where the C library can (glibc).

    It keeps what is freed for later: without this, a process that loads and closes versions of some
    ten megabytes grows by as much again and again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
