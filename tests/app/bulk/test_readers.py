"""Records of text, JSONL and CSV: those that can be read, and why others cannot."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bulk.errors import BulkError
from app.bulk.groups import Group, Reader, Reject
from app.bulk.lines import Lines, Position
from app.bulk.readers import CsvReader, JsonlReader, TextReader
from tests.app.bulk.corpora import texts, write_corpus

MAX_CHARS = 100
LINE_LIMIT = 1_000


def text_reader(path: Path) -> Reader:
    return TextReader(Lines(path, False, LINE_LIMIT), MAX_CHARS, None)


def jsonl_reader(path: Path) -> Reader:
    return JsonlReader(Lines(path, False, LINE_LIMIT), MAX_CHARS, None, "text")


def csv_reader(path: Path) -> Reader:
    return CsvReader(Lines(path, False, LINE_LIMIT), MAX_CHARS, None, "text", path.name, LINE_LIMIT)


def read(make: Callable[[Path], Reader], path: Path, content: bytes) -> Group:
    """The one group of a short input."""
    path.write_bytes(content)
    (group,) = make(path).groups(Position())
    return group


def codes(rejects: list[Reject]) -> list[tuple[int, str]]:
    return [(reject.number, reject.code) for reject in rejects]


@pytest.mark.parametrize(
    ("make", "name"), [(text_reader, "in.txt"), (jsonl_reader, "in.jsonl"), (csv_reader, "in.csv")]
)
def test_reading_goes_on_from_the_end_of_any_group(
    tmp_path: Path, make: Callable[[Path], Reader], name: str
) -> None:
    of = texts(1_200)
    path = write_corpus(tmp_path / name, of)
    groups = list(make(path).groups(Position()))
    assert [text for group in groups for text in group.texts] == of
    assert len(groups) == 3
    for place, group in enumerate(groups, 1):
        rest = [text for later in make(path).groups(group.end) for text in later.texts]
        assert rest == [text for later in groups[place:] for text in later.texts]


def test_progress_comes_to_the_size_of_the_file(tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "in.txt", texts(10))
    reader = text_reader(path)
    assert reader.progress == 0
    list(reader.groups(Position()))
    assert reader.progress == path.stat().st_size


# text


def test_lines_are_texts_blank_or_not(tmp_path: Path) -> None:
    group = read(text_reader, tmp_path / "in", "\ufeffIBM\r\n\n \u2028\x85 IBM\rIBM\nlast".encode())
    assert group.texts == ["IBM", "", " \u2028\x85 IBM\rIBM", "last"]
    assert group.numbers == [1, 2, 3, 4]


def test_lines_that_are_too_long_or_no_utf_8_are_set_aside(tmp_path: Path) -> None:
    lines = [b"IBM", b"x" * 101, b"x" * 2_000, b"a \xff b", b"x" * 100]
    group = read(text_reader, tmp_path / "in", b"\n".join(lines))
    assert group.numbers == [1, 5]
    long, longer, broken = group.rejects
    assert codes(group.rejects) == [(2, "text_too_long"), (3, "text_too_long"), (4, "invalid_utf8")]
    assert long.reason == "the text has 101 characters, a text may have 100 (NERVE_MAX_TEXT_CHARS)"
    assert "the line is longer than any text may be" in longer.reason
    assert (broken.reason, broken.record) == ("not UTF-8 (byte 2 of its line)", r"a \xff b")


# JSONL


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        (b"{not json}", "invalid_json", "not JSON: "),
        (rb'{"text": "\ud800"}', "invalid_json", "not JSON: "),
        (b'["IBM"]', "invalid_json", "not a JSON object but a list"),
        (b"7", "invalid_json", "not a JSON object but a number"),
        (b'{"body": "IBM", "id": 1}', "missing_field", "no field 'text' (it has 'body', 'id')"),
        (b"{}", "missing_field", "no field 'text' (it has none)"),
        (b'{"text": 7}', "not_a_string", "field 'text' is a number, not a string"),
        (b'{"text": null}', "not_a_string", "field 'text' is null, not a string"),
        (b'{"text": true}', "not_a_string", "field 'text' is a boolean, not a string"),
        (b'{"text": "\xff"}', "invalid_utf8", "not UTF-8 (byte 10 of its line)"),
        (b'{"text": "%s"}' % (b"x" * 101), "text_too_long", "the text has 101 characters"),
        (b'{"text": "%s"}' % (b"x" * 2_000), "text_too_long", "the line is longer than any text"),
    ],
)
def test_a_json_line_that_is_no_record_is_set_aside(
    tmp_path: Path, line: bytes, code: str, reason: str
) -> None:
    group = read(jsonl_reader, tmp_path / "in", b'{"text": "first"}\n' + line + b'\n{"text": "last"}')
    assert group.texts == ["first", "last"]
    (reject,) = group.rejects
    assert (reject.number, reject.code) == (2, code)
    assert reject.reason.startswith(reason)


def test_blank_lines_are_no_json_records(tmp_path: Path) -> None:
    group = read(jsonl_reader, tmp_path / "in", b'\n  \t\r\n{"text": "IBM"}\n\n')
    assert (group.numbers, group.texts, group.rejects) == ([3], ["IBM"], [])


def test_a_json_record_is_kept_to_the_byte_without_its_last_brace(tmp_path: Path) -> None:
    kept = rb'{"n": 12345678901234567890.10, "text":"\u0049BM", "n": 1e400 '
    group = read(jsonl_reader, tmp_path / "in", kept + b"}\n")
    assert group.texts == ["IBM"]
    assert group.rows.objects() == [kept]


def test_entities_that_a_json_record_has_make_room(tmp_path: Path) -> None:
    group = read(jsonl_reader, tmp_path / "in", b'{"entities": ["old"], "text": "x", "id": 1}')
    assert [json.loads(made + b"}") for made in group.rows.objects()] == [{"text": "x", "id": 1}]


# CSV


@given(rows=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=8))
def test_whatever_csv_can_hold_is_read(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    made = io.StringIO(newline="")
    csv.writer(made).writerows([("id", "text"), *rows])
    group = read(csv_reader, tmp_path / "in", made.getvalue().encode())
    assert group.rows.cells() == [list(row) for row in rows]
    assert group.texts == [text for _, text in rows]
    assert not group.rejects


def test_bad_rows_of_csv_are_set_aside_and_what_follows_is_read(tmp_path: Path) -> None:
    rows = [
        b"id,text",
        b'1,"a ""quoted"" IBM,',
        b'over two lines"',
        b"2",
        b"3,x,y",
        b'4,"x"y',
        b"5,\xff",
        b"",
        b"6,IBM",
        b"7," + b"x" * 2_000,
        b"8,New York",
        b"9," + b"x" * 101,
        b'10,"never closed',
    ]
    group = read(csv_reader, tmp_path / "in", b"\r\n".join(rows))
    assert group.texts == ['a "quoted" IBM,\r\nover two lines', "IBM", "New York"]
    assert group.numbers == [2, 9, 11]
    assert codes(group.rejects) == [
        (4, "wrong_columns"),
        (5, "wrong_columns"),
        (6, "invalid_csv"),
        (7, "invalid_utf8"),
        (10, "text_too_long"),
        (12, "text_too_long"),
        (13, "invalid_csv"),
    ]
    assert group.rejects[0].reason == "1 columns, and the header has 2"
    assert group.rejects[1].record == "3,x,y"


def test_entities_that_csv_has_make_room(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"id,entities,text\n1,old,IBM\n")
    reader = csv_reader(path)
    (group,) = reader.groups(Position())
    assert (reader.columns, group.rows.cells()) == (["id", "text"], [["1", "IBM"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"in\.csv: has no header; name its columns in its first line"),
        (b"text\xff\n", r"in\.csv: its header is not UTF-8; convert it"),
        (b'"text\n', r"in\.csv: its header cannot be read \(unexpected end of data\); mend it"),
        (b"x" * 2_000, r"in\.csv: its header cannot be read"),
        (b"id,body\n1,IBM\n", r"in\.csv: has no column 'text' \(it has id, body\); name one with --field"),
        (b"text,text\n", r"in\.csv: has 2 columns 'text'"),
    ],
)
def test_a_header_that_does_not_do_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(BulkError, match=message):
        csv_reader(tmp_path / "in.csv")
