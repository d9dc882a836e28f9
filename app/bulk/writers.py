"""Writers write records with their entities into a file that is complete up to each checkpoint."""

import csv
import gzip
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import to_json

from app.bulk.arrow import text_schema
from app.bulk.errors import BulkError
from app.bulk.formats import Format
from app.bulk.groups import ENTITIES, Reader, Rows
from app.bulk.parquet import ParquetWriter
from app.files import sync

Answers = Sequence[list[dict[str, Any]]]
"""Holds the entities of each record, as `POST /ner` renders them."""


class Writer(Protocol):
    """Writes an output in one format."""

    def write(self, rows: Rows, answers: Answers) -> None:
        """Add records with their entities."""
        ...

    def checkpoint(self) -> int:
        """Make what was written safe from a crash; return how much that is, in bytes or parts."""
        ...

    def finish(self) -> None:
        """Give the output its final name, after the last checkpoint."""
        ...

    def close(self) -> None:
        """Close the files; what was written after the last checkpoint may be lost."""
        ...


class Sink:
    """Appends bytes to a file that gets its final name once it is complete.

    Args:
        path: the final name.
        partial: the name until then.
        gzipped: compress it; each checkpoint ends a gzip member, so that the file is complete up to there.
        keep: the number of bytes to keep of an earlier run's file.
    """

    def __init__(self, path: Path, partial: Path, gzipped: bool, keep: int):
        self._path, self._partial = path, partial
        self._file = partial.open("ab")
        self._gzipped = gzipped
        self._member: gzip.GzipFile | None = None
        if self._file.tell() < keep:
            raise BulkError(
                f"{partial}: has {self._file.tell()} bytes, and {keep} were written; it was changed, start "
                "anew with --restart"
            )
        self._file.truncate(keep)
        self._file.seek(0, os.SEEK_END)
        self.empty = keep == 0

    def write(self, content: bytes) -> None:
        """Add bytes."""
        self.empty = False
        if self._gzipped:
            if self._member is None:
                self._member = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._file, mtime=0)
            self._member.write(content)
        else:
            self._file.write(content)

    def checkpoint(self) -> int:
        """Flush the file to disk; return its size in bytes."""
        if self._member is not None:
            self._member.close()
            self._member = None
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def finish(self) -> None:
        """Give the file its final name."""
        self._file.close()
        self._partial.replace(self._path)
        sync(self._path.parent)

    def discard(self) -> None:
        """Remove the file, and an older one with the final name."""
        self._file.close()
        self._partial.unlink()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StandardOutput:
    """Writes to standard output, like a `Sink` without checkpoints."""

    def __init__(self, gzipped: bool):
        self._out = sys.stdout.buffer
        self._member = gzip.GzipFile("", "wb", 6, self._out, mtime=0) if gzipped else None
        self.empty = True

    def write(self, content: bytes) -> None:
        """Write bytes and flush them."""
        self.empty = False
        if self._member:
            self._member.write(content)
            self._member.flush()
        else:
            self._out.write(content)
        self._out.flush()

    def checkpoint(self) -> int:
        """Do nothing, since output that was not read yet may be lost."""
        return 0

    def finish(self) -> None:
        """End the gzip stream."""
        if self._member:
            self._member.close()
        self._out.flush()

    def close(self) -> None:
        """Do nothing, as standard output stays open."""


class JsonlWriter:
    """Writes a JSON object a line: the record that was read, with `entities`."""

    def __init__(self, sink: Sink | StandardOutput):
        self._sink = sink
        self.checkpoint, self.finish, self.close = sink.checkpoint, sink.finish, sink.close

    def write(self, rows: Rows, answers: Answers) -> None:
        """Add records with their entities."""
        parts = []
        for start, entities in zip(rows.objects(), answers, strict=True):
            parts += [start, b',"entities":', to_json(entities), b"}\n"]
        self._sink.write(b"".join(parts))


class CsvWriter:
    """Writes the columns that were read, and `entities` as JSON."""

    def __init__(self, sink: Sink | StandardOutput, columns: Sequence[str]):
        self._sink = sink
        self.checkpoint, self.finish, self.close = sink.checkpoint, sink.finish, sink.close
        if sink.empty:
            self._write([[*columns, ENTITIES]])

    def write(self, rows: Rows, answers: Answers) -> None:
        """Add records with their entities."""
        self._write(
            [*cells, to_json(entities).decode()]
            for cells, entities in zip(rows.cells(), answers, strict=True)
        )

    def _write(self, rows: Any) -> None:
        made = io.StringIO(newline="")
        csv.writer(made).writerows(rows)
        self._sink.write(made.getvalue().encode())


def make_writer(form: Format, reader: Reader, path: Path | None, partial: Path, keep: int) -> Writer:
    """Return the writer of an output.

    Args:
        path: None for standard output.
        partial: the file or folder of the unfinished output.
        keep: how much of that to keep, as the last checkpoint returned it.

    Raises:
        BulkError: the input's columns do not fit the format.
    """
    columns, name = reader.columns, path or "-"
    if columns is None and form.kind != "jsonl":
        raise BulkError(
            f"{name}: JSONL has no fixed columns, and {form.kind} needs them; write .jsonl or .jsonl.gz"
        )
    if columns and form.kind != "csv" and (twice := {one for one in columns if columns.count(one) > 1}):
        raise BulkError(f"{name}: the input has the column {min(twice)!r} twice; rename one, or write .csv")
    if form.kind == "parquet":
        assert path is not None
        assert columns is not None
        return ParquetWriter(path, partial, reader.schema or text_schema(columns), keep)
    sink = StandardOutput(form.gzipped) if path is None else Sink(path, partial, form.gzipped, keep)
    return CsvWriter(sink, columns or []) if form.kind == "csv" else JsonlWriter(sink)
