"""Lines reads a corpus line by line, limits the length of a line, and tracks the position."""

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
    """Says how far an input has been read.

    Attributes:
        number: the number of lines read, or of rows of Parquet.
        offset: the number of bytes read, after decompression, or of rows of Parquet.
        digest: the SHA-256 of these bytes, if the input is standard input; else None.
    """

    number: int = 0
    offset: int = 0
    digest: str | None = None


class LineTooLong(Exception):
    """Says that a line is over the limit and was skipped."""


class _Stream(Protocol):
    def readline(self, size: int, /) -> bytes: ...

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class Lines:
    """Reads the lines of a file, of a gzip file, or of standard input.

    Args:
        path: None for standard input.
        limit: the most bytes that a line may have.
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
        """Return the number of lines read."""
        return self._number

    @property
    def position(self) -> Position:
        """Return the position of the next line."""
        return Position(self._number, self._offset, self._digest.hexdigest() if self._digest else None)

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of the file, compressed or not, were read; a gzip file is read ahead."""
        return self._raw.tell() if self._compressed and self._seekable else self._offset

    def next(self) -> bytes:
        """Return the next line with its line feed, or nothing at the end; drop a byte order mark.

        Raises:
            LineTooLong: the line is over the limit; the next call returns the line after it.
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
        """Skip to the position of an earlier run; at most the header may have been read before.

        Raises:
            JournalDiffers: standard input does not begin like that of the earlier run.
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
