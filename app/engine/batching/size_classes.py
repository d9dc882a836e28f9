"""Size classes hold requests of about one size, first come, first served.

Sharing the machine row by row among requests of one size would only make all of them late.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

_SHORT = 256
"""A request of up to this many sub-tokens is short and in the first size class. The limit of each further
class is 16 times the one before."""

CLASSES = 4
"""The number of size classes. The last one has all larger requests, too."""

_MOST = 1_024
"""At most this many rows are considered for a batch, which bounds the time that choosing takes."""


class QueuedRow(Protocol):
    """Waits to be run.

    Attributes:
        length: sub-tokens, special tokens included.
        deadline: the time after which its answer is useless.
    """

    @property
    def length(self) -> int: ...

    @property
    def deadline(self) -> float: ...


R = TypeVar("R", bound=QueuedRow)


def size_class_of(tokens: int) -> int:
    """Return the number of the size class of a request of `tokens` sub-tokens; 0 is the first."""
    return min(-(-(max(tokens - 1, 0) // _SHORT).bit_length() // 4), CLASSES - 1)


class Flow:
    """Counts the rows of one request that wait.

    Args:
        size: the expected number of sub-tokens of the whole request.

    Attributes:
        rows, tokens: the number of rows that wait, and of their sub-tokens.
    """

    __slots__ = ("cancelled", "rows", "size_class", "tokens")

    def __init__(self, size: int):
        self.size_class = size_class_of(size)
        self.rows = 0
        self.tokens = 0
        self.cancelled = False


class SizeClass(Generic[R]):
    """Holds the rows of one size class, in the order of their arrival.

    Attributes:
        flows, tokens: the number of requests that wait, and of their sub-tokens.
        served: the tag of the last row that was taken; see `Queue`.
    """

    __slots__ = ("_came", "_entries", "_stale", "flows", "number", "served", "tokens")

    def __init__(self, number: int) -> None:
        self.number = number
        self.flows = 0
        self.tokens = 0
        self.served = 0.0
        # Each entry has the number of sub-tokens that ever came before it. Rows of cancelled requests stay
        # until `first` or `forget` drops them; `_stale` counts these rows.
        self._entries: list[tuple[Flow, R, int]] = []
        self._came = 0
        self._stale = 0

    def add(self, flow: Flow, rows: Iterable[R]) -> int:
        """Add more rows of a request; return the number of their sub-tokens."""
        before, entries = self._came, len(self._entries)
        for row in rows:
            self._entries.append((flow, row, self._came))
            self._came += row.length
        self._count(flow, len(self._entries) - entries, self._came - before)
        return self._came - before

    def forget(self, flow: Flow) -> None:
        """Cancel a request."""
        flow.cancelled = True
        self._stale += flow.rows
        self._count(flow, -flow.rows, -flow.tokens)
        # `first` drops stale rows when it reaches them, but that may be far off.
        if not self.tokens or 2 * self._stale > 64 + len(self._entries):
            self._drop_stale(len(self._entries))

    def next_tag(self) -> float:
        """Return the tag of the next row; there must be one."""
        (row,) = self.first(1, most=1)
        return self.served + row.length / self.flows

    def first(self, tokens: int, overtaking: float = 0, most: int = _MOST) -> list[R]:
        """Return the first rows; row `i` of them is then at place `i`.

        Args:
            tokens: the rows have at least this many sub-tokens together, if enough rows wait.
            overtaking: rows that came more than this many sub-tokens after the first row are left out.
            most: the largest number of rows.
        """
        rows: list[R] = []
        walked, last = 0, 0.0
        for flow, row, came in self._entries:
            if not flow.cancelled:
                if not rows:
                    last = came + overtaking
                elif came > last:
                    break
                rows.append(row)
                tokens -= row.length
            walked += 1
            if tokens <= 0 or len(rows) == most:
                break
        if self._stale:
            self._drop_stale(walked)
        return rows

    def flow_at(self, place: int) -> Flow:
        """Return the flow of the row at a place."""
        return self._entries[place][0]

    def take(self, places: Iterable[int]) -> int:
        """Take out the rows at some places; return the number of their sub-tokens."""
        flows, before = self.flows, self.tokens
        for place in sorted(places, reverse=True):
            flow, row, _ = self._entries.pop(place)
            self.served += row.length / flows
            self._count(flow, -1, -row.length)
        return before - self.tokens

    def _count(self, flow: Flow, rows: int, tokens: int) -> None:
        """Add to the counts of a request and of the size class; negative numbers subtract."""
        waited = flow.rows > 0
        flow.rows += rows
        flow.tokens += tokens
        self.tokens += tokens
        self.flows += (flow.rows > 0) - waited

    def _drop_stale(self, count: int) -> None:
        """Drop the rows of cancelled requests among the first `count` entries."""
        alive = [entry for entry in self._entries[:count] if not entry[0].cancelled]
        self._stale -= count - len(alive)
        self._entries[:count] = alive
