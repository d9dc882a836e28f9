"""Spool: keeps bytes that wait for a slow reader, in memory and then on disk."""

import asyncio
import tempfile
import threading
from types import TracebackType
from typing import BinaryIO

from app.api.room import Room, Share
from app.errors import DiskFailed, TooLarge

_BLOCK = 65_536
"""Bytes that are kept in memory before they go to disk, and most bytes of one read from disk."""


class Spool:
    """Queues bytes between one coroutine that puts them and one that takes them.

    The file has no name, so that it vanishes with the process. It is a ring: positions beyond `max_bytes`
    start again at 0. It is emptied when all is read.

    Args:
        max_bytes: largest size of the file.
        room: what the files of all spools may take together.
        patience: seconds that `put` waits for `take` when the file or the room is full.
        folder: the folder of the file; by default the system's for temporary files (`TMPDIR`).
    """

    def __init__(self, max_bytes: int, room: Room, patience: float, folder: str | None = None):
        self._max_bytes = max_bytes
        self._share = Share(room)
        self._patience = patience
        self._folder = folder
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._written = self._read = 0
        self._came, self._taken = asyncio.Event(), asyncio.Event()
        self._moving = asyncio.Lock()
        self._using = threading.Lock()
        self._ended = self._closed = False

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def on_disk(self) -> int:
        """Return the number of bytes that wait in the file; bytes in memory are newer."""
        return self._written - self._read

    async def put(self, data: bytes) -> None:
        """Add data at the end.

        Raises:
            TooLarge: the file or the room is full and nothing was taken for `patience` seconds.
            DiskFailed: the file cannot be written. In both cases the data was not added.
        """
        if len(self._memory) + len(data) > _BLOCK:
            await self._make_room()
        self.put_last(data, last=False)

    def put_last(self, data: bytes, last: bool = True) -> None:
        """Add data at the end, even over the limit, and by default mark the end."""
        self._memory += data
        self._ended = last
        self._came.set()

    async def take(self) -> bytes:
        """Wait for the oldest bytes and return them; empty at the end.

        Raises:
            DiskFailed: the file cannot be read.
        """
        while not self.on_disk and not self._memory:
            if self._ended:
                return b""
            self._came.clear()
            await self._came.wait()
        async with self._moving:
            if self.on_disk:
                block = await self._from_disk()
            else:
                block = bytes(self._memory)
                self._memory = bytearray()
        self._taken.set()
        return block

    def close(self) -> None:
        """Drop the bytes that wait and close the file."""
        with self._using:  # a thread may still write, and the descriptor could be reused
            self._closed = True
            if self._file:
                self._file.close()
        self._share.resize(0)

    async def _make_room(self) -> None:
        """Move the bytes in memory to disk, unless they are taken first."""
        while self._memory:
            async with self._moving:
                if await self._to_disk():
                    return
            self._taken.clear()
            try:
                async with asyncio.timeout(self._patience):
                    await self._taken.wait()
            except TimeoutError:
                raise TooLarge(
                    f"{self.on_disk + len(self._memory)} bytes of answers wait to be read, and no more are "
                    "kept (NERVE_STREAM_SPOOL_BYTES, NERVE_STREAM_SPOOLS_BYTES); read while you send, or "
                    "send less at once",
                    "spool_full",
                ) from None

    async def _to_disk(self) -> bool:
        """Move the bytes in memory to disk; return False if there is no room for them."""
        data = bytes(self._memory)
        if self.on_disk + len(data) > self._max_bytes:
            return False
        if not self._share.resize(min(self._max_bytes, self._written + len(data))):
            return False
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            raise DiskFailed(
                f"the server cannot keep answers that are not read ({error.strerror}); read while you send",
                "spool_full",
            ) from error
        del self._memory[: len(data)]
        return True

    async def _from_disk(self) -> bytes:
        try:
            block = await asyncio.to_thread(self._oldest)
        except OSError as error:
            raise DiskFailed(
                f"the server cannot read the answers that it kept ({error.strerror})", "spool_unreadable"
            ) from error
        if not self.on_disk:
            self._share.resize(0)
        return block

    def _append(self, data: bytes) -> None:
        """Write data behind what is in the file; if that fails, the file counts as it was."""
        with self._using:
            if self._closed:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(  # noqa: SIM115
                    buffering=0, prefix="nerve-spool-", dir=self._folder
                )
            done = 0
            while done < len(data):
                at = (self._written + done) % self._max_bytes
                self._file.seek(at)
                done += self._file.write(data[done : done + self._max_bytes - at])
            self._written += done

    def _oldest(self) -> bytes:
        """Read the oldest bytes, and empty the file once all are read."""
        with self._using:
            if self._closed or self._file is None:
                return b""
            at = self._read % self._max_bytes
            self._file.seek(at)
            block = self._file.read(min(_BLOCK, self.on_disk, self._max_bytes - at))
            self._read += len(block)
            if not self.on_disk:
                self._written = self._read = 0
                self._file.truncate(0)
            return block
