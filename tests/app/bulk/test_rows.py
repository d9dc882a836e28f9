"""What of records comes out again, in each form."""

import json

import pyarrow
import pytest

from app.bulk.rows import JsonRows, TableRows

CELLS = [["1", "IBM"], ["2", "北京"], ["3", ""]]


def test_a_table_is_objects_cells_and_arrow() -> None:
    rows = TableRows(["id", "text"], CELLS)
    assert [json.loads(made + b"}") for made in rows.objects()] == [
        {"id": number, "text": text} for number, text in CELLS
    ]
    assert rows.cells() == CELLS
    batch = rows.batch()
    assert batch.schema.types == [pyarrow.string()] * 2
    assert batch.to_pydict() == {"id": ["1", "2", "3"], "text": ["IBM", "北京", ""]}


def test_some_rows_are_taken() -> None:
    assert TableRows(["id", "text"], CELLS).take([2, 0]).cells() == [CELLS[2], CELLS[0]]
    assert JsonRows([b'{"a":1', b'{"a":2']).take([1]).objects() == [b'{"a":2']


def test_json_has_no_columns() -> None:
    for asked in (JsonRows([]).cells, JsonRows([]).batch):
        with pytest.raises(NotImplementedError):
            asked()
