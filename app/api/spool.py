"""Spool: keeps bytes that wait for a slow reader, in memory and then on disk."""

import asyncio
import tempfile
import threading
from types import TracebackType
from typing import BinaryIO

from app.errors import TooLarge

_BLOCK = 65_536
"""Bytes that are kept in memory before they go to disk, and most bytes of one read from disk."""


class Spool:
    """Queues bytes between one coroutine that puts them and one that takes them.

    The file has no name, so that it vanishes with the process. It is a ring: positions beyond `max_bytes`
    start again at 0. It is emptied when all is read.

    Args:
        max_bytes: largest size of the file.
        patience: seconds that `put` waits for `take` when the file is full.
        folder: the folder of the file; by default the system's for temporary files (`TMPDIR`).
    """

    def __init__(self, max_bytes: int, patience: float, folder: str | None = None):
        self._max_bytes = max_bytes
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
            TooLarge: the file is full and nothing was taken for `patience` seconds, or it cannot be
                written; the data was not added.
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
        """Wait for the oldest bytes and return them; empty at the end."""
        while not self.on_disk and not self._memory:
            if self._ended:
                return b""
            self._came.clear()
            await self._came.wait()
        async with self._moving:
            if self.on_disk:
                block = await asyncio.to_thread(self._from_file)
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

    async def _make_room(self) -> None:
        """Move the bytes in memory to disk, unless they are taken first."""
        while self._memory:
            async with self._moving:
                if self.on_disk + len(self._memory) <= self._max_bytes:
                    try:
                        await asyncio.to_thread(self._to_file)
                    except OSError as error:
                        raise TooLarge(
                            f"the server cannot keep answers that are not read ({error.strerror}); read "
                            "while you send",
                            "spool_full",
                        ) from error
                    return
            self._taken.clear()
            try:
                async with asyncio.timeout(self._patience):
                    await self._taken.wait()
            except TimeoutError:
                raise TooLarge(
                    f"{self.on_disk + len(self._memory)} bytes of answers wait to be read, and no more are "
                    "kept (NERVE_STREAM_SPOOL_BYTES); read while you send, or send less at once",
                    "spool_full",
                ) from None

    def _to_file(self) -> None:
        with self._using:
            if self._closed:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(  # noqa: SIM115
                    buffering=0, prefix="nerve-spool-", dir=self._folder
                )
            written, left = self._written, memoryview(self._memory)
            while left:
                at = written % self._max_bytes
                self._file.seek(at)
                size = self._file.write(left[: self._max_bytes - at])
                written, left = written + size, left[size:]
            self._written, self._memory = written, bytearray()

    def _from_file(self) -> bytes:
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
