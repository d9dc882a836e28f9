"""What a corpus is written in, from its name or as it is told."""

from pathlib import Path

import pytest

from app.bulk.errors import BulkError
from app.bulk.formats import Format, input_format, output_format


@pytest.mark.parametrize(
    ("name", "told", "found"),
    [
        ("a.txt", None, Format("text")),
        ("a.TEXT.GZ", None, Format("text", True)),
        ("a.ndjson", None, Format("jsonl")),
        ("a.pq", None, Format("parquet")),
        ("a.b.csv.gz", None, Format("csv", True)),
        ("a.dat", "jsonl", Format("jsonl")),
        ("a.dat.gz", "jsonl", Format("jsonl", True)),
        (None, "CSV.gz", Format("csv", True)),
    ],
)
def test_a_format_is_in_the_name_or_told(name: str | None, told: str | None, found: Format) -> None:
    assert input_format(Path(name) if name else None, told) == found


def test_an_output_is_jsonl_where_nothing_else_is_said() -> None:
    assert output_format(None, None) == Format("jsonl")
    assert str(output_format(Path("a.csv.gz"), None)) == "csv.gz"


@pytest.mark.parametrize(
    ("name", "told"), [("a.txt", None), ("a.jsonl", "text"), ("a.parquet.gz", None), ("a", None)]
)
def test_what_has_no_place_for_entities_is_refused(name: str, told: str | None) -> None:
    with pytest.raises(BulkError):
        output_format(Path(name), told)
