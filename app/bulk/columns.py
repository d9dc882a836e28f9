"""Columns: the one that a text is in."""

from collections.abc import Sequence

from app.bulk.errors import BulkError


def column_of(column: str, columns: Sequence[str], name: str) -> int:
    """The place of a column.

    Raises:
        BulkError: there is none, or several; names those there are.
    """
    found = [place for place, other in enumerate(columns) if other == column]
    if len(found) == 1:
        return found[0]
    how = f"has {len(found)} columns" if found else "has no column"
    raise BulkError(f"{name}: {how} {column!r} (it has {', '.join(columns)}); name one with --field")
