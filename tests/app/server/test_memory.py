import ctypes
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from app.server.memory import collect_seldom


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


HELD = """
import ctypes, sys, psutil
from app.server.memory import hold_little
hold_little()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for size in (24 << 20, 16 << 20):  # by default glibc takes the second from its heap
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    last = libc.malloc(1 << 12)  # above it on the heap, which then cannot shrink
    before = psutil.Process().memory_info().rss
    libc.free(block)
    freed = before - psutil.Process().memory_info().rss
print(freed)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="this is glibc's"
)
def test_large_blocks_go_back_as_soon_as_they_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 15_000_000
