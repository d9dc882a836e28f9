"""Parquet reads and writes columns, one row group at a time.

A Parquet file has its table of contents at its end, so a file that was cut off cannot be read. The writer
therefore completes a part at each checkpoint, and joins the parts at the end.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from app.bulk.arrow import libraries
from app.bulk.columns import column_of
from app.bulk.errors import BulkError
from app.bulk.groups import ENTITIES, GROUP_TEXTS, Group, Record, Reject, Rows, gather, reject, too_long
from app.bulk.lines import Position
from app.files import sync

_ROW_GROUP_ROWS = 65_536
_ROW_GROUP_BYTES = 16 * 1024 * 1024
"""A row group is written once it has this many rows or bytes, which bounds memory."""


class ArrowRows:
    """Holds rows of a Parquet file, with the types of its columns; see `Rows`."""

    def __init__(self, batch: Any):
        self._batch = batch

    def objects(self) -> list[bytes]:
        rows = self._batch.to_pylist()
        return [to_json(row, bytes_mode="base64", fallback=str)[:-1] for row in rows]

    def cells(self) -> list[list[str]]:
        return [[_cell(value) for value in row.values()] for row in self._batch.to_pylist()]

    def batch(self) -> Any:
        return self._batch

    def take(self, places: Sequence[int]) -> "ArrowRows":
        pyarrow, _ = libraries()
        return ArrowRows(self._batch.take(pyarrow.array(places, pyarrow.int64())))


class ParquetReader:
    """Reads a Parquet file batch by batch, with the texts of one column.

    Raises:
        BulkError: it is no Parquet file, lacks the column, or the column is not text.
    """

    unit = "row"

    def __init__(self, path: Path, max_chars: int, column: str):
        self._arrow, library = libraries()
        self._max_chars, self._column = max_chars, column
        try:
            # Pages of a column are read when they are needed, since a whole row group may be large.
            self._file = library.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except self._arrow.ArrowException as error:
            raise BulkError(f"{path}: is no Parquet file ({error})") from None
        self._path = path
        whole = self._file.schema_arrow
        kind = whole.field(column_of(column, whole.names, str(path))).type
        types = self._arrow.types
        value = kind.value_type if types.is_dictionary(kind) else kind
        if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
            raise BulkError(f"{path}: column {column!r} is {kind}, not text; name another with --field")
        self._kept = [name for name in whole.names if name != ENTITIES]
        self.columns: list[str] | None = self._kept
        self.schema: Any = self._arrow.schema(
            [whole.field(name) for name in self._kept], metadata=whole.metadata
        )
        self.total: int | None = self._file.metadata.num_rows
        self._read = 0

    @property
    def progress(self) -> int:
        """Return the number of rows read."""
        return self._read

    def groups(self, start: Position) -> Iterator[Group]:
        """Yield all rows from a position on."""
        self._read = start.number
        batch: Any = None

        def records() -> Iterator[tuple[Any, Iterator[Record | Reject]]]:
            for found in self._batches(start.number):
                yield found, self._records(found)

        for batch, found in records():
            rows = _picked(batch)
            yield from gather(found, self._position, rows)

    def _position(self) -> Position:
        return Position(self._read, self._read)

    def _batches(self, done: int) -> Iterator[Any]:
        """Yield small batches of the rows after the first `done`."""
        metadata, first = self._file.metadata, 0
        while first < metadata.num_row_groups and metadata.row_group(first).num_rows <= done:
            done -= metadata.row_group(first).num_rows
            first += 1
        groups = list(range(first, metadata.num_row_groups))
        try:
            for batch in self._file.iter_batches(GROUP_TEXTS, row_groups=groups, columns=self._kept):
                if done < len(batch):
                    yield batch.slice(done)
                done -= min(done, len(batch))
        except (self._arrow.ArrowException, OSError) as error:  # a damaged page is an OSError
            said = " ".join(str(error).split())
            raise BulkError(
                f"{self._path}: cannot be read after row {self._read} ({said}); write it again"
            ) from error

    def _records(self, batch: Any) -> Iterator[Record | Reject]:
        """Yield a batch's records; what is kept of each is its place in the batch."""
        column, size = batch.column(self._column), batch.nbytes // len(batch)
        for place in range(len(batch)):
            self._read += 1
            try:
                text = column[place].as_py()
            except UnicodeDecodeError as error:
                yield reject(self._read, "invalid_utf8", f"not UTF-8 (byte {error.start})", "")
                continue
            if text is None:
                yield reject(
                    self._read, "not_a_string", f"column {self._column!r} is null, not a string", ""
                )
            elif len(text) > self._max_chars:
                yield reject(self._read, *too_long(len(text), self._max_chars), text)
            else:
                yield Record(self._read, text, place, size)


class ParquetWriter:
    """Writes the parts of a Parquet file into a folder; `finish` joins them.

    Args:
        path: the file.
        folder: the folder for the parts.
        schema: the columns beside the entities.
        parts: the number of parts in the folder to keep; all other files there are removed.
    """

    def __init__(self, path: Path, folder: Path, schema: Any, parts: int):
        self._arrow, self._library = libraries()
        arrow = self._arrow
        entity = [("text", arrow.string()), ("label", arrow.string()), ("start", arrow.int64())]
        entity += [("end", arrow.int64()), ("score", arrow.float64())]
        self._type = arrow.list_(arrow.struct(entity))
        self._schema = schema.append(arrow.field(ENTITIES, self._type))
        self._path, self._folder, self._parts = path, folder, parts
        self._open: Any = None
        self._waiting: list[Any] = []
        folder.mkdir(exist_ok=True)
        for found in folder.iterdir():
            if not (
                found.stem.isdecimal() and 1 <= int(found.stem) <= parts and found.suffix == ".parquet"
            ):
                found.unlink()

    def write(self, rows: Rows, answers: Sequence[list[dict[str, Any]]]) -> None:
        """Add records with their entities."""
        batch = rows.batch()
        entities = self._arrow.array(answers, self._type)
        self._waiting.append(
            self._arrow.RecordBatch.from_arrays([*batch.columns, entities], schema=self._schema)
        )
        if sum(batch.nbytes for batch in self._waiting) >= _ROW_GROUP_BYTES:
            self._write_row_group()

    def checkpoint(self) -> int:
        """Save what was written as a part; return the number of parts."""
        if self._waiting:
            self._write_row_group()
        if self._open:
            self._open.close()
            self._open = None
            sync(self._next.with_suffix(".tmp"))
            self._next.with_suffix(".tmp").rename(self._next)
            sync(self._folder)
            self._parts += 1
        return self._parts

    def finish(self) -> None:
        """Join the parts, after the last checkpoint; it may be called again after a kill."""
        whole = self._folder / "whole.tmp"
        with self._library.ParquetWriter(whole, self._schema) as writer:
            for table in self._row_groups():
                writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        sync(whole)
        whole.replace(self._path)
        sync(self._path.parent)

    def close(self) -> None:
        """Close the unfinished part."""
        if self._open:
            self._open.close()
            self._open = None

    @property
    def _next(self) -> Path:
        return self._folder / f"{self._parts + 1:06}.parquet"

    def _write_row_group(self) -> None:
        if not self._open:
            self._open = self._library.ParquetWriter(self._next.with_suffix(".tmp"), self._schema)
        self._open.write_table(self._arrow.Table.from_batches(self._waiting))
        self._waiting = []

    def _row_groups(self) -> Iterator[Any]:
        """Yield the parts' row groups, and join small ones."""
        waiting: list[Any] = []
        rows = size = 0
        for number in range(1, self._parts + 1):
            with self._library.ParquetFile(self._folder / f"{number:06}.parquet") as part:
                for group in range(part.num_row_groups):
                    waiting.append(part.read_row_group(group))
                    rows, size = rows + len(waiting[-1]), size + waiting[-1].nbytes
                    if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
                        yield self._arrow.concat_tables(waiting)
                        waiting, rows, size = [], 0, 0
        if waiting:
            yield self._arrow.concat_tables(waiting)


def remove_parts(folder: Path) -> None:
    """Remove a folder of parts, if there is one."""
    with suppress(FileNotFoundError):
        for found in os.scandir(folder):
            os.unlink(found)
        folder.rmdir()


def _picked(batch: Any) -> Callable[[list[int]], Rows]:
    whole = ArrowRows(batch)
    return lambda places: whole if len(places) == len(batch) else whole.take(places)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | bytes):
        return to_json(value, bytes_mode="base64", fallback=str).decode()
    return str(value)
