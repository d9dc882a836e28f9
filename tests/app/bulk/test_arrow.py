"""Tables of text in Arrow's form, and what is said where Arrow is missing."""

import sys

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bulk.arrow import libraries, text_batch, text_schema
from app.bulk.errors import BulkError


@given(rows=st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_rows_of_text_come_back_as_they_were(rows: list[list[str]]) -> None:
    batch = text_batch(["id", "text"], rows)
    assert batch.schema == text_schema(["id", "text"])
    assert [list(row.values()) for row in batch.to_pylist()] == rows


def test_every_column_is_text() -> None:
    schema = text_schema(["id", "text"])
    assert (schema.names, schema.types) == (["id", "text"], [pyarrow.string()] * 2)


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BulkError, match=r"not installed; pip install 'nerve-ner\[parquet\]'"):
        libraries()
