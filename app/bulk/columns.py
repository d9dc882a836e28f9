"""Columns finds the column that holds the text."""

from collections.abc import Sequence

from app.bulk.errors import BulkError


def column_of(column: str, columns: Sequence[str], name: str) -> int:
    """Return the place of a column; `name` is the file's name, for the message.

    Raises:
        BulkError: no column has this name, or several have.
    """
    found = [place for place, other in enumerate(columns) if other == column]
    if len(found) == 1:
        return found[0]
    how = f"has {len(found)} columns" if found else "has no column"
    raise BulkError(f"{name}: {how} {column!r} (it has {', '.join(columns)}); name one with --field")
