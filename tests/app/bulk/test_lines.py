"""Lines of a file or a gzip file, each bounded, from any position."""

import gzip
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bulk.errors import BulkError, JournalDiffers
from app.bulk.lines import Lines, LineTooLong, Position


def written(path: Path, content: bytes, gzipped: bool) -> Path:
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


def read(lines: Lines) -> list[bytes]:
    return list(iter(lines.next, b""))


@pytest.mark.parametrize("gzipped", [False, True])
@given(content=st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\xc3\xbc"]), max_size=12).map(b"".join))
def test_all_is_read_and_any_position_is_gone_on_from(
    tmp_path: Path, content: bytes, gzipped: bool
) -> None:
    path = written(tmp_path / "in", content, gzipped)
    whole, positions = [], []
    lines = Lines(path, gzipped, 100)
    while line := lines.next():
        whole.append(line)
        positions.append(lines.position)
    assert b"".join(whole) == content
    assert lines.number == len(whole)
    for place, position in enumerate(positions):
        again = Lines(path, gzipped, 100)
        again.skip_to(position)
        assert read(again) == whole[place + 1 :]


def test_a_line_over_the_limit_is_passed_over(tmp_path: Path) -> None:
    lines = Lines(written(tmp_path / "in", b"one\n" + b"x" * 200_000 + b"\nthree\n", False), False, 10)
    assert lines.next() == b"one\n"
    with pytest.raises(LineTooLong):
        lines.next()
    assert lines.next() == b"three\n"
    assert lines.position == Position(3, 200_011)


def test_the_mark_of_utf_8_belongs_to_no_line(tmp_path: Path) -> None:
    lines = Lines(written(tmp_path / "in", b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n", False), False, 10)
    assert read(lines) == [b"one\n", b"\xef\xbb\xbftwo\n"]


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"one\n")[:-4]], ids=["other", "cut off"])
def test_what_is_no_whole_gzip_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.gz").write_bytes(content)
    message = r"in\.gz: is no whole gzip file: it cannot be read on after line 0 .*; fetch it again"
    with pytest.raises(BulkError, match=message):
        read(Lines(tmp_path / "in.gz", True, 10))


def test_standard_input_is_gone_on_with_if_it_begins_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines_of(content: bytes) -> Lines:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return Lines(None, False, 10)

    first = lines_of(b"one\ntwo\n")
    first.next()
    again = lines_of(b"one\nother\n")
    again.skip_to(first.position)
    assert (again.number, read(again)) == (1, [b"other\n"])
    with pytest.raises(JournalDiffers, match="-: begins otherwise than what was annotated before"):
        lines_of(b"One\ntwo\n").skip_to(first.position)
