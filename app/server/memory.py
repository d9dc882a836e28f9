"""Memory sets the allocator and the garbage collector of a whole process.

Only `nerve serve` and `nerve annotate` do this, because they own their process. `create_app` does not, as
it may run in another application's process.
"""

import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # parameters of mallopt(3)
_LARGE = 1 << 20
"""A block of at least this many bytes is mapped separately."""

_ARENAS = 2
"""The process has at most this many heaps (arenas), as each heap keeps freed memory."""

_YOUNG = 50_000
"""The garbage collector runs after this many new objects; Python's default is 700."""


def hold_little() -> None:
    """Have large blocks, such as weights, mapped separately, so that they are returned once freed.

    By default glibc raises its limit for large blocks to the size of a freed one. It then takes the weights
    of the next version from heaps, which never shrink, and each thread may start a heap.
    It must be called before other threads allocate memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, _ARENAS)


def collect_seldom() -> None:
    """Run the garbage collector seldom, and exclude the objects that exist now.

    Reference counts free nearly everything. By default the collector visits young objects several times a
    request, and sometimes everything that was imported, while every other thread waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
