"""Records with their entities, in files that are whole up to each checkpoint."""

import gzip
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bulk.errors import BulkError
from app.bulk.formats import Format, Kind
from app.bulk.groups import Reader
from app.bulk.lines import Lines
from app.bulk.parquet import ParquetWriter
from app.bulk.readers import CsvReader, JsonlReader
from app.bulk.rows import JsonRows, TableRows
from app.bulk.writers import CsvWriter, JsonlWriter, Sink, StandardOutput, make_writer

ENTITY = {"text": "北", "label": "LOC", "start": 0, "end": 1, "score": 0.5}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "out.part"


def content(path: Path, gzipped: bool = False) -> bytes:
    return gzip.decompress(path.read_bytes()) if gzipped else path.read_bytes()


# sinks


@pytest.mark.parametrize("gzipped", [False, True])
@settings(max_examples=20)
@given(safe=st.lists(st.binary()), lost=st.lists(st.binary()), more=st.lists(st.binary()))
def test_what_was_written_after_a_checkpoint_is_cut_off_again(
    tmp_path: Path, gzipped: bool, safe: list[bytes], lost: list[bytes], more: list[bytes]
) -> None:
    path, part = tmp_path / "out", tmp_path / "out.part"
    first = Sink(path, part, gzipped, 0)
    kept = 0
    for some in safe:
        first.write(some)
        kept = first.checkpoint()
    for some in lost:
        first.write(some)
    first.close()
    second = Sink(path, part, gzipped, kept)
    for some in more:
        second.write(some)
    second.checkpoint()
    second.finish()
    assert content(path, gzipped) == b"".join(safe + more)
    assert not part.exists()


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_checkpoint_leaves_a_file_that_is_whole(tmp_path: Path, part: Path, gzipped: bool) -> None:
    sink = Sink(tmp_path / "out", part, gzipped, 0)
    for number in range(1, 4):
        sink.write(b"IBM\n")
        assert sink.checkpoint() == part.stat().st_size
        assert content(part, gzipped) == b"IBM\n" * number
    sink.close()


def test_a_file_that_was_cut_off_is_told(tmp_path: Path, part: Path) -> None:
    part.write_bytes(b"01234")
    with pytest.raises(BulkError, match=r"out\.part: has 5 bytes, and 6 were written; .*--restart"):
        Sink(tmp_path / "out", part, False, 6)


def test_nothing_to_keep_leaves_nothing_of_that_name(tmp_path: Path, part: Path) -> None:
    (tmp_path / "out").write_text("of an earlier run")
    Sink(tmp_path / "out", part, False, 0).discard()
    assert list(tmp_path.iterdir()) == []


def test_standard_output_can_be_read_as_it_is_written(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = StandardOutput(gzipped=False)
    sink.write(b"IBM\n")
    assert (capfdbinary.readouterr().out, sink.checkpoint()) == (b"IBM\n", 0)


def test_compressed_standard_output_too_and_it_is_whole_at_the_end(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    sink, unpack = StandardOutput(gzipped=True), zlib.decompressobj(wbits=31)
    for some in (b"IBM\n", b"x\n"):
        sink.write(some)
        assert unpack.decompress(capfdbinary.readouterr().out) == some
    assert not unpack.eof
    sink.finish()
    assert unpack.decompress(capfdbinary.readouterr().out) == b""
    assert unpack.eof


# formats


def test_jsonl_has_what_was_read_and_then_the_entities(tmp_path: Path, part: Path) -> None:
    writer = JsonlWriter(Sink(tmp_path / "out", part, False, 0))
    writer.write(JsonRows([b'{"n": 1e400 ', b'{"a":2']), [[ENTITY], []])
    writer.checkpoint()
    first, second = part.read_bytes().splitlines()
    assert first.startswith(b'{"n": 1e400 ,"entities":[')
    assert json.loads(first)["entities"] == [ENTITY]
    assert second == b'{"a":2,"entities":[]}'
    writer.close()


def test_csv_has_one_header_however_often_it_is_gone_on_with(tmp_path: Path, part: Path) -> None:
    kept = 0
    for text in ('a "quoted",\r\ntext', "x"):
        writer = CsvWriter(Sink(tmp_path / "out", part, False, kept), ["text"])
        writer.write(TableRows(["text"], [[text]]), [[]])
        kept = writer.checkpoint()
        writer.close()
    assert part.read_bytes() == b'text,entities\r\n"a ""quoted"",\r\ntext",[]\r\nx,[]\r\n'


def csv_of(tmp_path: Path, header: bytes) -> Reader:
    (tmp_path / "in.csv").write_bytes(header + b"\n")
    return CsvReader(Lines(tmp_path / "in.csv", False, 100), 100, None, "text", "in.csv", 100)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_jsonl_is_written_as_jsonl_alone(tmp_path: Path, part: Path, kind: Kind) -> None:
    (tmp_path / "in.jsonl").touch()
    reader = JsonlReader(Lines(tmp_path / "in.jsonl", False, 100), 100, None, "text")
    message = rf"out: JSONL has no fixed columns, and {kind} needs them; write \.jsonl"
    with pytest.raises(BulkError, match=message):
        make_writer(Format(kind), reader, tmp_path / "out", part, 0)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_of_one_name_are_written_as_csv_alone(tmp_path: Path, part: Path, kind: Kind) -> None:
    reader = csv_of(tmp_path, b"a,a,text")
    with pytest.raises(BulkError, match=r"out: the input has the column 'a' twice; rename one, or write"):
        make_writer(Format(kind), reader, tmp_path / "out", part, 0)
    assert not part.exists()
    writer = make_writer(Format("csv"), reader, tmp_path / "out", part, 0)
    writer.checkpoint()
    assert part.read_bytes() == b"a,a,text,entities\r\n"
    writer.close()


@pytest.mark.parametrize(
    ("kind", "made"), [("jsonl", JsonlWriter), ("csv", CsvWriter), ("parquet", ParquetWriter)]
)
def test_each_format_has_its_writer(tmp_path: Path, part: Path, kind: Kind, made: type[object]) -> None:
    writer = make_writer(Format(kind), csv_of(tmp_path, b"id,text"), tmp_path / "out", part, 0)
    assert type(writer) is made
    writer.close()
