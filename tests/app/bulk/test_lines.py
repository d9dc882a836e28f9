"""Lines of a file or a gzip file, each bounded, from any position."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
