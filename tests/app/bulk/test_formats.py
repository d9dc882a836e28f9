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
    ("name", "told", "message"),
    [
        ("in.doc", None, r"in\.doc: its name does not tell its format \(known: \.txt, .*; give --format"),
        ("in.jsonl", "xml", r"--format xml: there is no such format; give text, jsonl, csv"),
        ("in.parquet.gz", None, r"a Parquet file is compressed inside; name it \.parquet"),
        (None, None, r"-: standard input has no name to tell its format by; give --format \(text"),
        (None, "parquet", "-: Parquet cannot be a stream; name a file as input"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(name: str | None, told: str | None, message: str) -> None:
    with pytest.raises(BulkError, match=message):
        input_format(Path(name) if name else None, told)


@pytest.mark.parametrize(
    ("name", "told", "message"),
    [
        ("a.txt", None, r"a\.txt: plain text has no place for entities; write \.jsonl"),
        ("a.jsonl", "text", "plain text has no place for entities"),
        ("a.parquet.gz", None, r"a Parquet file is compressed inside; name it \.parquet"),
        ("a", None, "a: its name does not tell its format .*; give --output-format"),
        (None, "parquet", "-: Parquet cannot be a stream; name a file as output"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    name: str | None, told: str | None, message: str
) -> None:
    with pytest.raises(BulkError, match=message):
        output_format(Path(name) if name else None, told)
