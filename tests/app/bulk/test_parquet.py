"""Parquet in and out: types, rows that cannot be read, and parts that are joined."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bulk.arrow import text_schema
from app.bulk.errors import BulkError
from app.bulk.lines import Position
from app.bulk.parquet import ArrowRows, ParquetReader, ParquetWriter, remove_parts
from app.bulk.rows import TableRows
from tests.app.bulk.corpora import texts, write_corpus

MAX_CHARS = 100
ENTITY = {"text": "IBM", "label": "ORG", "start": 0, "end": 3, "score": 0.5}


def written(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


# rows

WHEN = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
BATCH = pyarrow.RecordBatch.from_pydict(
    {"when": [WHEN, None], "raw": [b"\xff", b""], "tags": [["a"], []], "n": [1, 2]}
)


def test_any_type_has_a_form_in_json() -> None:
    first, second = (json.loads(made + b"}") for made in ArrowRows(BATCH).objects())
    assert first == {"when": "2024-02-29T00:00:00Z", "raw": "_w==", "tags": ["a"], "n": 1}
    assert second == {"when": None, "raw": "", "tags": [], "n": 2}


def test_any_type_has_a_form_in_csv() -> None:
    assert ArrowRows(BATCH).cells() == [
        ["2024-02-29 00:00:00+00:00", '"_w=="', '["a"]', "1"],
        ["", '""', "[]", "2"],
    ]


def test_some_rows_are_taken_with_their_types() -> None:
    taken = ArrowRows(BATCH).take([1]).batch()
    assert taken.schema == BATCH.schema
    assert taken.to_pylist() == BATCH.to_pylist()[1:]


# reader


def test_reading_goes_on_from_the_end_of_any_group(tmp_path: Path) -> None:
    of = texts(1_200)
    path = write_corpus(tmp_path / "in.parquet", of)  # its row groups end elsewhere than ours
    reader = ParquetReader(path, MAX_CHARS, "text")
    groups = list(reader.groups(Position()))
    assert [text for group in groups for text in group.texts] == of
    assert (reader.progress, reader.total) == (1_200, 1_200)
    for place, group in enumerate(groups, 1):
        again = ParquetReader(path, MAX_CHARS, "text")
        rest = [text for later in again.groups(group.end) for text in later.texts]
        assert rest == [text for later in groups[place:] for text in later.texts]


@pytest.mark.parametrize(
    "type_",
    [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())],
)
def test_text_may_be_of_any_type_of_text(tmp_path: Path, type_: Any) -> None:
    path = written(tmp_path / "in.parquet", text=pyarrow.array(["IBM", "x"]).cast(type_))
    (group,) = ParquetReader(path, MAX_CHARS, "text").groups(Position())
    assert group.texts == ["IBM", "x"]


def test_rows_without_a_text_are_set_aside_and_the_others_keep_theirs(tmp_path: Path) -> None:
    path = written(tmp_path / "in.parquet", text=["IBM", None, "x" * 101, "x"], id=[1, 2, 3, 4])
    (group,) = ParquetReader(path, MAX_CHARS, "text").groups(Position())
    assert group.numbers == [1, 4]
    assert group.rows.batch().to_pydict() == {"text": ["IBM", "x"], "id": [1, 4]}
    assert [(reject.number, reject.code) for reject in group.rejects] == [
        (2, "not_a_string"),
        (3, "text_too_long"),
    ]
    assert group.rejects[0].reason == "column 'text' is null, not a string"


def test_a_text_that_is_no_utf_8_is_set_aside(tmp_path: Path) -> None:
    text = pyarrow.array([b"IBM", b"a\xff"]).view(pyarrow.string())
    (group,) = ParquetReader(written(tmp_path / "in", text=text), MAX_CHARS, "text").groups(Position())
    assert group.texts == ["IBM"]
    assert [(one.number, one.code, one.reason) for one in group.rejects] == [
        (2, "invalid_utf8", "not UTF-8 (byte 1)")
    ]


def test_entities_that_the_file_has_make_room(tmp_path: Path) -> None:
    path = written(tmp_path / "in.parquet", entities=["old"], text=["IBM"], id=[1])
    reader = ParquetReader(path, MAX_CHARS, "text")
    assert reader.columns == reader.schema.names == ["text", "id"]


def test_what_is_no_column_of_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "in.parquet", id=[1], text=["IBM"])
    with pytest.raises(BulkError, match="column 'id' is int64, not text; name another with --field"):
        ParquetReader(path, MAX_CHARS, "id")
    with pytest.raises(BulkError, match=r"has no column 'body' \(it has id, text\)"):
        ParquetReader(path, MAX_CHARS, "body")


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"no such thing")
    with pytest.raises(BulkError, match=r"in\.parquet: is no Parquet file"):
        ParquetReader(tmp_path / "in.parquet", MAX_CHARS, "text")


def test_a_file_that_is_damaged_inside_is_told_with_the_row(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "in.parquet", texts(1_200))
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = b"\xff" * third
    path.write_bytes(content)
    groups = ParquetReader(path, MAX_CHARS, "text").groups(Position())
    with pytest.raises(BulkError, match=r"in\.parquet: cannot be read after row \d+ .*; write it again"):
        list(groups)


# writer


def writer_of(folder: Path, parts: int = 0) -> ParquetWriter:
    return ParquetWriter(folder / "out.parquet", folder / "parts", text_schema(["text"]), parts)


def write(writer: ParquetWriter, *of: str) -> None:
    writer.write(TableRows(["text"], [[text] for text in of]), [[ENTITY] for _ in of])


def read(folder: Path) -> list[str]:
    found: list[str] = pyarrow.parquet.read_table(folder / "out.parquet")["text"].to_pylist()
    return found


@settings(max_examples=15)
@given(parts=st.lists(st.lists(st.text(), max_size=3), max_size=4))
def test_parts_are_joined_in_order(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("joined")
    writer = writer_of(folder)
    for part in parts:
        write(writer, *part)
        writer.checkpoint()
    writer.finish()
    assert read(folder) == [text for part in parts for text in part]


def test_entities_are_structures_beside_the_columns(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    writer.write(TableRows(["text"], [["IBM"], ["x"]]), [[ENTITY], []])
    writer.checkpoint()
    writer.finish()
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert found == [{"text": "IBM", "entities": [ENTITY]}, {"text": "x", "entities": []}]


def test_a_checkpoint_without_records_makes_no_part(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    assert writer.checkpoint() == 0
    write(writer, "a")
    assert [writer.checkpoint(), writer.checkpoint()] == [1, 1]


def test_what_was_written_after_a_checkpoint_is_thrown_away_again(tmp_path: Path) -> None:
    first = writer_of(tmp_path)
    for text in "ab":
        write(first, text)
        first.checkpoint()
    write(first, "c")
    first.close()
    second = writer_of(tmp_path, parts=1)  # the journal is older than the second part
    write(second, "d")
    assert second.checkpoint() == 2
    second.finish()
    assert read(tmp_path) == ["a", "d"]


def test_joining_again_is_the_same(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    write(writer, "a", "b")
    parts = writer.checkpoint()
    writer.finish()
    writer_of(tmp_path, parts).finish()
    assert read(tmp_path) == ["a", "b"]


def test_parts_are_removed_if_there_are_any(tmp_path: Path) -> None:
    write(writer := writer_of(tmp_path), "a")
    writer.checkpoint()
    for _ in range(2):
        remove_parts(tmp_path / "parts")
        assert not (tmp_path / "parts").exists()
