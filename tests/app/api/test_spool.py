"""The spool: what comes out is what went in, whatever is on disk at the time."""

import asyncio
import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.room import Room
from app.api.spool import Spool
from app.errors import DiskFailed, TooLarge


async def emptied(spool: Spool) -> bytes:
    found = b""
    while block := await spool.take():
        found += block
    return found


@given(
    sizes=st.lists(st.integers(1, 40_000), max_size=30),
    takes=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    max_bytes=st.integers(100_000, 300_000),
)
def test_everything_comes_out_in_order(sizes: list[int], takes: list[int], max_bytes: int) -> None:
    async def run() -> None:
        sent, found = b"", b""
        with Spool(max_bytes, Room(10**9), 0.001) as spool:
            for number, (size, count) in enumerate(zip(sizes, takes, strict=False)):
                data = bytes([number]) * size
                try:
                    await spool.put(data)
                except TooLarge:
                    assert len(sent) - len(found) + size > max_bytes
                else:
                    sent += data
                assert spool.on_disk <= max_bytes
                for _ in range(count):
                    if len(found) < len(sent):
                        found += await spool.take()
            spool.put_last(b"end")
            assert found + await emptied(spool) == sent + b"end"

    asyncio.run(run())


def test_both_at_once() -> None:
    async def run() -> None:
        parts = [bytes([number % 251]) * (number * 37 % 9_000) for number in range(1_000)]
        with Spool(500_000, Room(10**9), 60) as spool:

            async def fill() -> None:
                for part in parts:
                    await spool.put(part)
                spool.put_last(b"")

            filling = asyncio.create_task(fill())
            assert await emptied(spool) == b"".join(parts)
            await filling

    asyncio.run(run())


def test_what_is_put_can_be_taken_at_once() -> None:
    async def run() -> None:
        with Spool(1, Room(10**9), 60) as spool:
            taking = asyncio.create_task(spool.take())
            await asyncio.sleep(0)
            await spool.put(b"a")
            assert await taking == b"a"

    asyncio.run(run())


def test_a_full_spool_waits_for_who_takes_and_not_for_ever() -> None:
    async def run() -> None:
        with Spool(100_000, Room(10**9), 0.05) as spool:
            await spool.put(b"a" * 60_000)
            await spool.put(b"b" * 60_000)
            assert spool.on_disk == 60_000
            with pytest.raises(TooLarge, match=r"120000 bytes .*NERVE_STREAM_SPOOL_BYTES") as caught:
                await spool.put(b"c" * 60_000)
            assert caught.value.code == "spool_full"
            putting = asyncio.create_task(spool.put(b"c" * 60_000))
            await asyncio.sleep(0)
            assert not putting.done()
            assert await spool.take() == b"a" * 60_000
            await putting
            spool.put_last(b"end")
            assert await emptied(spool) == b"b" * 60_000 + b"c" * 60_000 + b"end"

    asyncio.run(run())


def test_the_file_has_no_name_and_shrinks(tmp_path: Path) -> None:
    def size() -> int:
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # of this very listing
                if str(tmp_path) in os.readlink(link):
                    return link.stat().st_size
        return -1

    async def run() -> None:
        with Spool(1_000_000, Room(10**9), 60, str(tmp_path)) as spool:
            for _ in range(5):
                for _ in range(10):
                    await spool.put(b"a" * 50_000)
                assert size() == spool.on_disk > 400_000
                assert not list(tmp_path.iterdir())
                while spool.on_disk:
                    await spool.take()
                assert size() == 0
        assert size() == -1

    asyncio.run(run())


def test_a_disk_that_cannot_be_written_loses_nothing_that_was_taken_in(tmp_path: Path) -> None:
    async def run() -> None:
        with Spool(1_000_000, Room(10**9), 60, str(tmp_path / "none")) as spool:
            await spool.put(b"a" * 60_000)
            with pytest.raises(DiskFailed, match=os.strerror(errno.ENOENT)):
                await spool.put(b"b" * 60_000)
            spool.put_last(b"end")
            assert await emptied(spool) == b"a" * 60_000 + b"end"

    asyncio.run(run())


def test_spools_share_what_the_disk_may_hold() -> None:
    async def run() -> None:
        room = Room(150_000)
        with Spool(200_000, room, 0.05) as one, Spool(200_000, room, 0.05) as other:
            for spool in (one, other):
                await spool.put(b"a" * 60_000)
                await spool.put(b"b" * 60_000)
            assert room.free == 30_000
            with pytest.raises(TooLarge, match="NERVE_STREAM_SPOOLS_BYTES") as caught:
                await one.put(b"c" * 60_000)
            assert caught.value.code == "spool_full"
            assert await other.take() == b"a" * 60_000
            assert room.free == 90_000
            await other.put(b"c" * 60_000)
        assert room.free == 150_000

    asyncio.run(run())
