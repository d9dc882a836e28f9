"""Arrow imports `pyarrow`, an optional library that only Parquet needs, and makes tables of text."""

from collections.abc import Sequence
from typing import Any

from app.bulk.errors import BulkError


def libraries() -> tuple[Any, Any]:
    """Return `pyarrow` and `pyarrow.parquet`.

    Raises:
        BulkError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BulkError(
            "Parquet needs pyarrow, which is not installed; pip install 'nerve-ner[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def text_schema(columns: Sequence[str]) -> Any:
    """Return the schema of columns that are all text."""
    pyarrow, _ = libraries()
    return pyarrow.schema([(name, pyarrow.string()) for name in columns])


def text_batch(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Return a `pyarrow.RecordBatch` of rows that are all text."""
    pyarrow, _ = libraries()
    arrays = [
        pyarrow.array([row[place] for row in rows], pyarrow.string()) for place in range(len(columns))
    ]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=text_schema(columns))
