"""Lines: however a body is cut into pieces, its lines are the same."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.lines import LineSplitter, Record, answer_line, line_limits, read_record
from app.api.room import Room, Share
from app.errors import NerveError, RequestError
from tests.texts import texts

bodies = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", "\u2028".encode()]), st.binary(max_size=6)
    )
).map(b"".join)


def lines_of(pieces: list[bytes], max_bytes: int = 1_000_000) -> list[bytes | str]:
    """The lines of a body, and the codes of those that are too long."""
    splitter = LineSplitter(replace(line_limits(0, plain=True), max_bytes=max_bytes), Share(Room(10**9)))
    lines = [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.end())
    return [line.code if isinstance(line, NerveError) else line for line in lines]


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return [body[start:end] for start, end in itertools.pairwise(places)]


@given(body=bodies, cuts=st.lists(st.integers(0, 1000)), max_bytes=st.integers(1, 20))
def test_where_a_body_is_cut_does_not_matter(body: bytes, cuts: list[int], max_bytes: int) -> None:
    whole = body.split(b"\n")
    if not whole[-1]:
        whole.pop()
    limited = ["line_too_long" if len(line) > max_bytes else line.removesuffix(b"\r") for line in whole]
    expected = [
        line.removeprefix(b"\xef\xbb\xbf") if isinstance(line, bytes) and not number else line
        for number, line in enumerate(limited)
    ]
    assert lines_of([body], max_bytes) == expected
    assert lines_of(pieces_of(body, cuts), max_bytes) == expected
    assert lines_of([bytes([byte]) for byte in body], max_bytes) == expected


@given(text=texts, ascii_only=st.booleans())
def test_every_text_is_read_as_it_was_written(text: str, ascii_only: bool) -> None:
    body = json.dumps({"text": text, "id": text}, ensure_ascii=ascii_only).encode()
    (line,) = lines_of([body + b"\n"])
    assert isinstance(line, bytes)
    record = read_record(1, line, False, 10_000)
    assert record
    assert (record.text, json.loads(record.id), record.error) == (text, text, None)


def test_the_longest_text_fits_a_line() -> None:
    text = "🗼" * 1_000
    line = json.dumps({"text": text}).encode()
    assert 12_000 < len(line) < line_limits(1_000, plain=False).max_bytes
    assert read_record(1, line, False, 1_000) == Record(1, text=text)
    record = read_record(1, line, False, 999)
    assert record
    assert isinstance(record.error, RequestError)
    assert record.error.code == "text_too_long"


@pytest.mark.parametrize("blank", [b"", b" ", b"\t\r", b"  \x0c"])
def test_a_blank_line_asks_nothing_unless_it_is_a_text(blank: bytes) -> None:
    assert read_record(1, blank, False, 100) is None
    assert read_record(3, blank, True, 100) == Record(3, text=blank.decode())


@given(text=texts)
def test_an_answer_is_one_line_to_every_reader(text: str) -> None:
    line = answer_line({"entities": text}, json.dumps(text).encode())
    found: Any = json.loads(line)
    assert (found["id"], found["entities"]) == (text, text)
    assert line.count(b"\n") == 1
    assert len(answer_line({"entities": text}).decode().splitlines()) == 1
