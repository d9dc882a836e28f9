"""Rows: what must come out again of records that were read from lines."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from app.bulk.arrow import text_batch


class TableRows:
    """Rows of columns that are all text."""

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
    """JSON objects as they were read, byte for byte."""

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
