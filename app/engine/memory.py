"""Memory: what a closed version leaves behind goes back to the operating system, where glibc holds it."""

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of mallopt(3)
_LARGE = 1 << 20
_ARENAS = 2


def hold_little() -> None:
    """Have large blocks, such as weights, mapped one by one and given back as soon as they are freed.

    Left alone, glibc raises the size that it calls large to that of what was freed, takes the next
    version's weights from heaps instead, of which each thread may begin one, and these never shrink:
    after 200 swaps under load a server held a third more. To be called before other threads allocate.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


def give_memory_back() -> None:
    """Return freed memory to the operating system.

    It is kept for later otherwise: a process that loads and closes versions of some ten megabytes
    grows by as much again and again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
