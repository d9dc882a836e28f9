"""Rows hold what the output repeats of records that were read from lines; see `groups.Rows`."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from app.bulk.arrow import text_batch


class TableRows:
    """Holds rows whose columns are all text."""

    def __init__(self, columns: Sequence[str], rows: Sequence[list[str]]):
        self._columns = columns
        self._rows = list(rows)

    def objects(self) -> list[bytes]:
        return [to_json(dict(zip(self._columns, row, strict=True)))[:-1] for row in self._rows]

    def cells(self) -> list[list[str]]:
        return self._rows

    def batch(self) -> Any:
        return text_batch(self._columns, self._rows)

    def take(self, places: Sequence[int]) -> "TableRows":
        return TableRows(self._columns, [self._rows[place] for place in places])


class JsonRows:
    """Holds JSON objects byte for byte as they were read, without their closing braces."""

    def __init__(self, objects: Sequence[bytes]):
        self._objects = list(objects)

    def objects(self) -> list[bytes]:
        return self._objects

    def cells(self) -> list[list[str]]:
        raise NotImplementedError("JSONL has no fixed columns; `make_writer` refuses it")

    def batch(self) -> Any:
        raise NotImplementedError("JSONL has no fixed columns; `make_writer` refuses it")

    def take(self, places: Sequence[int]) -> "JsonRows":
        return JsonRows([self._objects[place] for place in places])
