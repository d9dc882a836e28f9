"""Memory that was freed goes back to the operating system here."""

import ctypes


def give_memory_back() -> None:
    """Return freed memory to the operating system.

    Otherwise glibc keeps it, and a process that loads and closes versions of some ten megabytes grows by
    as much with each.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
