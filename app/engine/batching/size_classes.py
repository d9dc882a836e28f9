"""Size classes: requests of about one size, which wait in one line, first come, first served.

To share the machine among requests of one size row by row would only make all of them late.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

_SHORT = 256
"""Sub-tokens of a short request. Requests of at most so many are in the first class; each further class has
those of up to 16 times as many as the class before."""

_MOST = 1_024
"""Rows that are considered for a batch at most, which bounds the time that choosing takes."""


class QueuedRow(Protocol):
    """A row that waits to be run.

    Attributes:
        length: sub-tokens, special tokens included.
        deadline: the time after which nobody waits for it any more.
    """

    @property
    def length(self) -> int: ...

    @property
    def deadline(self) -> float: ...


R = TypeVar("R", bound=QueuedRow)


def size_class_of(tokens: int) -> int:
    """The number of the size class of requests of so many sub-tokens."""
    return -(-(max(tokens - 1, 0) // _SHORT).bit_length() // 4)


class Flow:
    """The rows of one request.

    Args:
        size: sub-tokens that the request has in all, as far as is known before they are counted.

    Attributes:
        rows, tokens: of its rows, those that wait, and their sub-tokens.
    """

    __slots__ = ("cancelled", "rows", "size_class", "tokens")

    def __init__(self, size: int):
        self.size_class = size_class_of(size)
        self.rows = 0
        self.tokens = 0
        self.cancelled = False


class SizeClass(Generic[R]):
    """The line of one size class.

    Attributes:
        flows, tokens: requests that wait, and their sub-tokens.
        served: the tag of the last row that was given out; see `Queue`.
    """

    __slots__ = ("_came", "_entries", "_stale", "flows", "number", "served", "tokens")

    def __init__(self, number: int) -> None:
        self.number = number
        self.flows = 0
        self.tokens = 0
        self.served = 0.0
        # Rows in the order of arrival, each with the sub-tokens that ever came before it. Rows of cancelled
        # requests stay among them, counted as stale, until they are met.
        self._entries: list[tuple[Flow, R, int]] = []
        self._came = 0
        self._stale = 0

    def add(self, flow: Flow, rows: Iterable[R]) -> int:
        """Let more rows of a request join the line, and count their sub-tokens."""
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
        # Its rows are dropped when they are met in their turn as well, but that may be far off.
        if not self.tokens or 2 * self._stale > 64 + len(self._entries):
            self._drop_stale(len(self._entries))

    def next_tag(self) -> float:
        """The tag of the next row; there must be one."""
        (row,) = self.first(1, most=1)
        return self.served + row.length / self.flows

    def first(self, tokens: int, overtaking: float = 0, most: int = _MOST) -> list[R]:
        """The first rows, which stand at the first places of the line afterwards.

        Args:
            tokens: sub-tokens that the rows have together, at least if so many wait.
            overtaking: a row is left out if more sub-tokens came between the first row and it.
            most: rows, at most.
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
        """The request of the row at a place of the line."""
        return self._entries[place][0]

    def take(self, places: Iterable[int]) -> int:
        """Give out the rows at some places of the line, and count their sub-tokens."""
        flows, before = self.flows, self.tokens
        for place in sorted(places, reverse=True):
            flow, row, _ = self._entries.pop(place)
            self.served += row.length / flows
            self._count(flow, -1, -row.length)
        return before - self.tokens

    def _count(self, flow: Flow, rows: int, tokens: int) -> None:
        """Count rows of a request in, or out where the numbers are negative."""
        waited = flow.rows > 0
        flow.rows += rows
        flow.tokens += tokens
        self.tokens += tokens
        self.flows += (flow.rows > 0) - waited

    def _drop_stale(self, count: int) -> None:
        """Drop the rows of cancelled requests among the first entries."""
        alive = [entry for entry in self._entries[:count] if not entry[0].cancelled]
        self._stale -= count - len(alive)
        self._entries[:count] = alive
