"""The column that a text is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bulk.columns import column_of
from app.bulk.errors import BulkError


@given(columns=st.lists(st.text(), min_size=1, unique=True), data=st.data())
def test_a_column_is_found_where_it_stands(columns: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(columns) - 1))
    assert column_of(columns[place], columns, "in.csv") == place


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["id", "text"], r"in\.csv: has no column 'body' \(it has id, text\); name one with --field"),
        (["body", "id", "body"], r"in\.csv: has 2 columns 'body' \(it has body, id, body\)"),
    ],
)
def test_a_column_that_is_not_there_once_is_refused(columns: list[str], message: str) -> None:
    with pytest.raises(BulkError, match=message):
        column_of("body", columns, "in.csv")
