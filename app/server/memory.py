"""Memory: how a process of ours takes memory from the system, and how often it looks for cycles in it.

Both hold for the whole process. So `nerve serve` and `nerve annotate` set them, which own theirs, and
`create_app` and `annotate` do not, which may run in somebody else's.
"""

import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of mallopt(3)
_LARGE = 1 << 20
"""Bytes from which on a block is mapped by itself."""

_ARENAS = 2
"""Heaps that the process has at most."""

_YOUNG = 50_000
"""Python looks for cycles once there are so many objects more than before; its own number is 700."""


def hold_little() -> None:
    """Have large blocks, such as weights, mapped one by one and given back as soon as they are freed.

    By default, glibc raises the size that it calls large to that of what was freed. It then takes the
    weights of the next version from heaps, of which each thread may begin one, and heaps never shrink.
    To be called before other threads allocate.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


def collect_seldom() -> None:
    """Look for unreachable cycles seldom, and never among the objects that exist now.

    Reference counts free nearly everything. By default, the collector walks through young objects several
    times a request, and now and then through all that was ever imported, while every other thread waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
