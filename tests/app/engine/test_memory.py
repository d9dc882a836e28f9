import ctypes
import sys

import psutil
import pytest

from app.engine.memory import Tidying, give_memory_back
from tests.servers import until


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


def test_it_goes_back_after_a_while_once_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, given = 0, 0

    def idle() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 3

    def give() -> None:
        nonlocal given
        given += 1

    monkeypatch.setattr("app.engine.memory.give_memory_back", give)
    tidying = Tidying(idle, 0.01)
    for _ in range(10):
        tidying.later()
    until(lambda: given)
    assert (asked, given) == (3, 1)
    tidying.close()
    tidying.later()
    assert tidying._timer is None
