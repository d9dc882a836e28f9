"""Readers yield the records of text, JSONL and CSV files."""

import csv
from collections.abc import Callable, Iterator
from typing import Any

from pydantic_core import from_json, to_json

from app.bulk.columns import column_of
from app.bulk.errors import BulkError
from app.bulk.groups import ENTITIES, Group, Record, Reject, Rows, gather, not_utf8, reject, too_long
from app.bulk.lines import Lines, LineTooLong, Position
from app.bulk.rows import JsonRows, TableRows

_LINE_TOO_LONG = ("text_too_long", "the line is longer than any text may be (NERVE_MAX_TEXT_CHARS)")


class _Lined:
    """Is the base of the readers of lines."""

    unit = "line"
    columns: list[str] | None = None
    schema: Any = None

    def __init__(self, lines: Lines, max_chars: int, total: int | None):
        self._lines = lines
        self._max_chars = max_chars
        self.total = total

    @property
    def progress(self) -> int:
        return self._lines.bytes_read

    def groups(self, start: Position) -> Iterator[Group]:
        self._lines.skip_to(start)
        return gather(self._records(), lambda: self._lines.position, self._rows)

    def _records(self) -> Iterator[Record | Reject]:
        raise NotImplementedError

    def _rows(self, kept: list[Any]) -> Rows:
        raise NotImplementedError

    def _plain_lines(self) -> Iterator[tuple[int, str] | Reject]:
        """Yield the number and the content of each line, or a `Reject`."""
        while True:
            try:
                line = self._lines.next()
            except LineTooLong:
                yield Reject(self._lines.number, *_LINE_TOO_LONG, "")
                continue
            if not line:
                return
            try:
                yield self._lines.number, line.decode()
            except UnicodeDecodeError as error:
                shown = line.decode(errors="backslashreplace").rstrip("\r\n")
                yield reject(self._lines.number, *not_utf8(error), shown)

    def _checked(self, number: int, text: str, kept: Any, record: str) -> Record | Reject:
        """Return the record, or a `Reject` if its text is too long."""
        if len(text) <= self._max_chars:
            return Record(number, text, kept, len(record))
        return reject(number, *too_long(len(text), self._max_chars), record)


class TextReader(_Lined):
    """Reads each line as a text, empty lines too."""

    def __init__(self, lines: Lines, max_chars: int, total: int | None):
        super().__init__(lines, max_chars, total)
        self.columns = ["text"]

    def _records(self) -> Iterator[Record | Reject]:
        for line in self._plain_lines():
            if isinstance(line, Reject):
                yield line
            else:
                text = line[1].removesuffix("\n").removesuffix("\r")
                yield self._checked(line[0], text, [text], text)

    def _rows(self, kept: list[Any]) -> Rows:
        return TableRows(["text"], kept)


class JsonlReader(_Lined):
    """Reads each line as a JSON object with the text in a field, and skips blank lines."""

    def __init__(self, lines: Lines, max_chars: int, total: int | None, field: str):
        super().__init__(lines, max_chars, total)
        self._field = field

    def _records(self) -> Iterator[Record | Reject]:
        for line in self._plain_lines():
            if isinstance(line, Reject):
                yield line
            elif content := line[1].strip(" \t\r\n"):
                yield self._record(line[0], content)

    def _record(self, number: int, content: str) -> Record | Reject:
        try:
            found = from_json(content)
        except ValueError as error:
            return reject(number, "invalid_json", f"not JSON: {error}", content)
        if not isinstance(found, dict):
            return reject(number, "invalid_json", f"not a JSON object but {_kind(found)}", content)
        if self._field not in found:
            has = ", ".join(map(repr, list(found)[:10])) or "none"
            return reject(number, "missing_field", f"no field {self._field!r} (it has {has})", content)
        text = found[self._field]
        if not isinstance(text, str):
            return reject(
                number, "not_a_string", f"field {self._field!r} is {_kind(text)}, not a string", content
            )
        if ENTITIES in found:
            del found[ENTITIES]
            kept = to_json(found)[:-1]
        else:  # keep the bytes: numbers that no float can hold stay exact
            kept = content[:-1].encode()
        return self._checked(number, text, kept, content)

    def _rows(self, kept: list[Any]) -> Rows:
        return JsonRows(kept)


class CsvReader(_Lined):
    """Reads CSV with a header (RFC 4180) and the text in a column."""

    def __init__(self, lines: Lines, max_chars: int, total: int | None, column: str, name: str, limit: int):
        super().__init__(lines, max_chars, total)
        csv.field_size_limit(limit)
        self._undecodable: UnicodeDecodeError | None = None
        self._parser = csv.reader(_Decoded(self._next), strict=True)
        try:
            header = next(self._parser, [])
        except (csv.Error, LineTooLong) as error:
            raise BulkError(f"{name}: its header cannot be read ({error}); mend it") from None
        if self._undecodable:
            raise BulkError(f"{name}: its header is not UTF-8; convert it")
        if not header:
            raise BulkError(f"{name}: has no header; name its columns in its first line")
        self._column = column_of(column, header, name)
        self._header = header
        self._added_to = [place for place, found in enumerate(header) if found != ENTITIES]
        self.columns = [header[place] for place in self._added_to]

    def _next(self) -> str:
        line = self._lines.next()
        if not line:
            raise StopIteration
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self._undecodable = error
            return line.decode(errors="backslashreplace")

    def _records(self) -> Iterator[Record | Reject]:
        while True:
            number, self._undecodable = self._lines.number + 1, None
            try:
                row = next(self._parser, None)
            except LineTooLong:
                yield Reject(number, *_LINE_TOO_LONG, "")
            except csv.Error as error:
                reason = f"not CSV: {error} (lines {number} to {self._lines.number})"
                yield Reject(number, "invalid_csv", reason, "")
            else:
                if row is None:
                    return
                if row:  # a blank line is not a record
                    yield self._record(number, row)

    def _record(self, number: int, row: list[str]) -> Record | Reject:
        shown = ",".join(row)
        if self._undecodable:
            return reject(number, *not_utf8(self._undecodable), shown)
        if len(row) != len(self._header):
            reason = f"{len(row)} columns, and the header has {len(self._header)}"
            return reject(number, "wrong_columns", reason, shown)
        kept = row if len(self._added_to) == len(row) else [row[place] for place in self._added_to]
        return self._checked(number, row[self._column], kept, shown)

    def _rows(self, kept: list[Any]) -> Rows:
        assert self.columns is not None
        return TableRows(self.columns, kept)


class _Decoded:
    """Iterates over a function's results, and continues after an error, unlike a generator."""

    def __init__(self, call: Callable[[], str]):
        self._call = call

    def __iter__(self) -> "_Decoded":
        return self

    def __next__(self) -> str:
        return self._call()


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
