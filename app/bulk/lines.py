"""Lines: what a corpus of lines is read from, each line bounded, and how far it has been read."""

import gzip
import hashlib
import io
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.bulk.errors import BulkError, JournalDiffers

_BLOCK = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Position:
    """How far an input has been read.

    Attributes:
        number: lines read, or rows of Parquet.
        offset: bytes read, uncompressed; rows of Parquet.
        digest: SHA-256 of these bytes, where the input can be read only once.
    """

    number: int = 0
    offset: int = 0
    digest: str | None = None


class LineTooLong(Exception):
    """A line is over the limit, and has been passed over."""


class _Stream(Protocol):
    def readline(self, size: int, /) -> bytes: ...

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class Lines:
    """The lines of a file, of a gzip file, or of standard input.

    Args:
        path: None for standard input.
        limit: most bytes of a line.
    """

    def __init__(self, path: Path | None, gzipped: bool, limit: int):
        self._name = "-" if path is None else str(path)
        self._raw = sys.stdin.buffer if path is None else path.open("rb", _BLOCK)
        self._stream: _Stream = self._raw
        if gzipped:
            self._stream = io.BufferedReader(gzip.GzipFile(fileobj=self._raw, mode="rb"), _BLOCK)
        self._seekable = path is not None
        self._compressed = gzipped
        self._digest = None if self._seekable else hashlib.sha256()
        self._limit = limit
        self._number = 0
        self._offset = 0

    @property
    def number(self) -> int:
        """Lines read."""
        return self._number

    @property
    def position(self) -> Position:
        """Where the next line starts."""
        return Position(self._number, self._offset, self._digest.hexdigest() if self._digest else None)

    @property
    def bytes_read(self) -> int:
        """Bytes of the file, compressed or not, that have been asked for; some are read ahead."""
        return self._raw.tell() if self._compressed and self._seekable else self._offset

    def next(self) -> bytes:
        """The next line with its end, empty at the end of the input; without the mark that may begin it.

        Raises:
            LineTooLong: it is over the limit; the next call gives the line after it.
            BulkError: the input is damaged.
        """
        try:
            line = self._stream.readline(self._limit + 1)
            self._count(line)
            if len(line) > self._limit:
                while not line.endswith(b"\n") and line:
                    line = self._stream.readline(_BLOCK)
                    self._count(line)
                self._number += 1
                raise LineTooLong
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BulkError(
                f"{self._name}: is no whole gzip file: it cannot be read on after line {self._number} "
                f"({error}); fetch it again"
            ) from error
        if line:
            self._number += 1
            if self._number == 1 and line.startswith(_BOM):
                return line[len(_BOM) :]
        return line

    def skip_to(self, position: Position) -> None:
        """Go on where an earlier run was; what was read before may be of the header at most.

        Raises:
            JournalDiffers: the input can be read only once, and its start is another.
        """
        if position.offset <= self._offset:
            return
        if self._seekable:
            self._stream.seek(position.offset)
            self._offset = position.offset
        while self._offset < position.offset:
            block = self._stream.read(min(_BLOCK, position.offset - self._offset))
            self._count(block)
            if not block:
                break
        self._number = position.number
        if self.position != position and not self._seekable:
            raise JournalDiffers(
                f"{self._name}: begins otherwise than what was annotated before, in its first "
                f"{position.offset} bytes; give the same input again, or start anew with --restart"
            )

    def _count(self, block: bytes) -> None:
        self._offset += len(block)
        if self._digest:
            self._digest.update(block)
