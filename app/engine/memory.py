"""Memory: when what nobody needs is looked for, and that it goes back to the operating system."""

import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of mallopt(3)
_LARGE = 1 << 20
_ARENAS = 2

_YOUNG = 50_000
"""Objects more than before after which cycles are looked for; Python's own number is 700."""


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


def collect_seldom() -> None:
    """Look for unreachable cycles seldom, and never among what exists now.

    Reference counts free nearly everything. Left alone, the collector walks through young objects several
    times a request, and now and then through all that was ever imported, while every other thread waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
