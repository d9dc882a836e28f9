"""What arrives is counted as a JSON parser would see it, wherever it is cut."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.arriving import FREE, Arriving, Limits, ValueCounter
from app.api.room import Room, Share
from app.errors import NoRoom, TooLarge

LIMITS = Limits("body", 300_000, " (BYTES)", "body_too_large", 1_000, " (VALUES)")

strings = st.text(alphabet='\\",[{ué', max_size=8)
values = st.recursive(
    st.none() | st.integers() | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
)


def counted(document: bytes, size: int) -> int:
    counter = ValueCounter()
    for start in range(0, len(document), size):
        counter.feed(document[start : start + size])
    return counter.values


def size_of(value: Any) -> int:
    """The values in a value, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(size_of, inner))


@given(value=values, ascii_only=st.booleans(), size=st.integers(1, 7))
def test_values_are_counted_outside_of_strings(value: Any, ascii_only: bool, size: int) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only).encode()
    outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", document)
    found = counted(document, size)
    assert found == sum(outside.count(mark) for mark in (b",", b"[", b"{"))
    assert size_of(value) <= found + 1


@pytest.mark.parametrize("piece", [997, 65_536, 300_000])
def test_limits_are_inclusive(piece: int) -> None:
    def arrived(document: bytes) -> bytes:
        arriving = Arriving(LIMITS, Share(Room(300_000)))
        for start in range(0, len(document), piece):
            arriving.add(document[start : start + piece])
        return arriving.take()

    for whole in (b'"%s"' % (b"," * 299_998), b"[" * 1_000, b"[" + b"[ ]," * 499):
        assert arrived(whole) == whole
    with pytest.raises(TooLarge, match="the body has more than 300000 bytes ") as raised:
        arrived(b'"%s"' % (b"," * 299_999))
    assert raised.value.code == "body_too_large"
    with pytest.raises(TooLarge, match="the body has more than 1000 values ") as raised:
        arrived(b"[" * 1_001)
    assert raised.value.code == "too_many_values"


def test_what_is_large_has_a_share_until_it_is_taken() -> None:
    room = Room(100_000)
    with Share(room) as share, Share(room) as other:
        first, second = Arriving(LIMITS, share), Arriving(LIMITS, other)
        first.add(b" " * FREE)
        assert (room.free, first.since) == (100_000, 0)
        first.add(b" " * 90_000)
        assert room.free == 10_000
        assert first.since > 0
        second.add(b" " * (FREE + 10_000))
        with pytest.raises(NoRoom, match="NERVE_MAX_BODIES_BYTES") as raised:
            second.add(b" ")
        assert (raised.value.code, raised.value.retry_after) == ("bodies_full", 1.0)
        second.clear()
        assert len(first.take()) == FREE + 90_000
        assert (room.free, first.since, len(first)) == (100_000, 0, 0)
