import ctypes
import gc
import sys
import weakref
from collections.abc import Iterator

import psutil
import pytest

from app.engine.memory import collect_seldom, give_memory_back


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this is glibc's"
)
def test_what_was_freed_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    size = 64 * 1024  # below what the allocator asks the system for one by one
    blocks = [libc.malloc(size) for _ in range(1600)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # the last one keeps the others from going back by themselves
        libc.free(block)
    before = psutil.Process().memory_info().rss
    give_memory_back()
    assert before - psutil.Process().memory_info().rss > 50_000_000
    libc.free(blocks[-1])


@pytest.fixture
def collector() -> Iterator[None]:
    """The collector as the other tests have it, afterwards."""
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


class Node:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_exists_is_left_alone_and_new_cycles_are_still_freed(collector: None) -> None:
    old = Node()
    collect_seldom()
    assert gc.get_freeze_count() > 1_000
    kept = weakref.ref(old)
    new = [weakref.ref(Node()) for _ in range(200_000)]
    assert sum(node() is None for node in new) > 100_000
    del old
    gc.collect()
    assert kept() is not None
