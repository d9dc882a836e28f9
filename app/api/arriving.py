"""Arriving: gathers the bytes of a body, or of a line of a stream, while they come, within their limits.

Parsing JSON takes time and memory by the number of its values rather than of its bytes, and no other
request has a turn meanwhile: 8 MiB of `[],[],…` are three million lists. So values are counted first, piece
by piece.
"""

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.api.room import Share
from app.errors import NoRoom, TooLarge

FREE = 65_536
"""Bytes of each body and line that need no share of the room, so that large ones cannot lock out small
ones. The number of connections bounds them."""

_RETRY_SECONDS = 1.0
"""Seconds after which who found no room may come again; how long the others will take is not known."""

_MARKS = b'",[{'
_OTHERS = bytes(byte for byte in range(256) if byte not in _MARKS)
_QUOTE = ord('"')


class ValueCounter:
    """Counts the commas and opening brackets of a JSON document outside of its strings; it has at most one
    value more than these."""

    __slots__ = ("_escape", "_inside", "values")

    def __init__(self) -> None:
        self.values = 0
        self._inside = False
        self._escape = b""

    def feed(self, piece: bytes) -> None:
        """Count the values in the next bytes of the document; where they are cut does not matter."""
        piece = self._escape + piece
        run = len(piece) - len(piece.rstrip(b"\\"))
        self._escape = b"\\" * (run % 2)  # its other half is in the next piece
        if b"\\" in piece:
            piece = piece[: len(piece) - run % 2].replace(b"\\\\", b"").replace(b'\\"', b"")
        marks = np.frombuffer(piece.translate(None, _OTHERS), np.uint8)
        quotes = (marks == _QUOTE).view(np.uint8)
        # An opening quote counts as inside of its string, a closing one as outside.
        inside = np.bitwise_xor.accumulate(quotes) ^ self._inside
        self.values += len(marks) - int(np.count_nonzero(inside | quotes))
        self._inside ^= bool(np.count_nonzero(quotes) % 2)


@dataclass(frozen=True)
class Limits:
    """Says how large a body or line may be, and how to tell who sent a larger one.

    Attributes:
        name: what it is.
        max_bytes: most bytes.
        bytes_remedy: what to do about more of them, in brackets or after a semicolon.
        code: the code of the error for more of them.
        max_values: most values of JSON; None for plain text.
        values_remedy: what to do about more of them.
    """

    name: str
    max_bytes: int
    bytes_remedy: str
    code: str
    max_values: int | None
    values_remedy: str

    @cached_property
    def harmless(self) -> int:
        """Return how many bytes are within all limits, whatever they are."""
        return min(FREE, self.max_bytes, FREE if self.max_values is None else self.max_values)

    @property
    def too_long(self) -> TooLarge:
        """Return the error for more bytes."""
        return TooLarge(
            f"the {self.name} has more than {self.max_bytes} bytes{self.bytes_remedy}", self.code
        )

    @property
    def too_many(self) -> TooLarge:
        """Return the error for more values."""
        message = f"the {self.name} has more than {self.max_values} values{self.values_remedy}"
        return TooLarge(message, "too_many_values")


class Arriving:
    """Gathers the bytes of one body, or of one line after another.

    Args:
        share: what it holds of the room for all that arrives.

    Attributes:
        since: when it began to hold a share, on the clock of `time.monotonic()`; 0 if it holds none.
    """

    __slots__ = ("_bytes", "_counted", "_counter", "_limits", "_share", "since")

    def __init__(self, limits: Limits, share: Share):
        self._limits = limits
        self._share = share
        self._bytes = bytearray()
        self._counter: ValueCounter | None = None
        self._counted = 0
        self.since = 0.0

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, piece: bytes) -> None:
        """Add the next bytes.

        Raises:
            TooLarge: there are more bytes or values than the limits allow.
            NoRoom: there is no room for more.
        """
        self._bytes += piece
        if len(self._bytes) > self._limits.harmless:
            self._check()

    def take(self) -> bytes:
        """Return all bytes, and begin anew."""
        whole = bytes(self._bytes)
        self.clear()
        return whole

    def clear(self) -> None:
        """Drop all bytes, and begin anew."""
        self._bytes.clear()
        self._counter = None
        self._counted = 0
        self.since = 0.0
        self._share.resize(0)

    def _check(self) -> None:
        limits, size = self._limits, len(self._bytes)
        if size > limits.max_bytes:
            raise limits.too_long
        if size > FREE:
            self.since = self.since or time.monotonic()
            if not self._share.resize(size - FREE):
                raise NoRoom(
                    f"there is no room for the {limits.name}: too many large ones are being received "
                    "(NERVE_MAX_BODIES_BYTES); come again, or send less at once",
                    _RETRY_SECONDS,
                )
        if limits.max_values is not None:
            self._counter = self._counter or ValueCounter()
            self._counter.feed(bytes(memoryview(self._bytes)[self._counted :]))
            self._counted = size
            if self._counter.values > limits.max_values:
                raise limits.too_many
