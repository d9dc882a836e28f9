"""Backlog: what waits to be run, and what runs next. It knows no thread and no clock.

*Turns.* Requests share the machine by rounds, a window of each a round (self-clocked fair queueing,
Golestani 1994, "A self-clocked fair queueing scheme for broadband applications", with windows for
packets): a window is tagged with the round that it may run in, the lowest tag goes next, among equals
the oldest, and the round at hand is that of the last turn. So a request of a thousand texts does not
hold up those of one, single texts come in the order of their arrival, and no window waits for ever:
newcomers are tagged with a later round than the one at hand.

*Batches.* The row whose turn it is runs, with those of the next rows in turn that make the batch
cheapest a sub-token. A batch is no larger than pays: where its fixed cost has become small, more rows
would only make everybody wait. And it leaves the others of several runners their share of the work.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

_LOOK_AHEAD = 10
"""Rows considered at a time, in batches: more would cost time and hardly sort better."""

_MOST = 1_024
"""Rows considered at most."""

_SMALL = 1 / 32
"""A batch's fixed cost has become small when it is such a part of the whole."""


class Row(Protocol):
    """One window that waits to be run."""

    @property
    def length(self) -> int:
        """Sub-tokens, special tokens included."""
        ...

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more."""
        ...


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch: `fixed + per_token * rows * longest`."""

    fixed: float = 5e-4
    per_token: float = 4e-5

    def of(self, rows: int, longest: int) -> float:
        return self.fixed + self.per_token * rows * longest

    @property
    def enough(self) -> int:
        """Padded sub-tokens of a batch that hardly gets cheaper, a sub-token, by more of them."""
        return int(self.fixed / self.per_token / _SMALL)


class Flow(Generic[R]):
    """The rows of one request.

    Attributes:
        rows, waiting: of them, those that wait, and their sub-tokens.
    """

    __slots__ = ("cancelled", "rows", "tag", "waiting")

    def __init__(self) -> None:
        self.rows = 0
        self.waiting = 0
        self.tag = 0
        self.cancelled = False


class Backlog(Generic[R]):
    """Rows that wait.

    Attributes:
        tokens: their sub-tokens.
        flows: the requests that they belong to.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.flows = 0
        self._round = 0
        self._number = 0
        self._entries: list[tuple[int, int, Flow[R], R]] = []  # by tag, then by arrival
        self._stale = 0

    def __bool__(self) -> bool:
        return self.tokens > 0

    def add(self, flow: Flow[R], rows: Iterable[R]) -> None:
        """Queue more rows of a request, in order."""
        if flow.cancelled:
            return
        added = []
        before = flow.waiting
        tag = max(flow.tag, self._round)
        for row in rows:
            tag += 1
            flow.waiting += row.length
            flow.rows += 1
            self._number += 1
            added.append((tag, self._number, flow, row))
        flow.tag = tag
        self.tokens += flow.waiting - before
        self.flows += not before and flow.waiting > 0
        if len(added) > 8:
            self._entries += added
            self._entries.sort()  # two runs in order: one merge
        else:
            for entry in added:
                insort(self._entries, entry)

    def cancel(self, flow: Flow[R]) -> None:
        """Forget a request's rows, and those that it may still bring."""
        self._forget(flow)
        if self._stale > 64 + len(self._entries) // 2:  # their turn, where they go as well, may be far
            self._entries = [entry for entry in self._entries if not entry[2].cancelled]
            self._stale = 0

    def _forget(self, flow: Flow[R]) -> None:
        if not flow.cancelled:
            flow.cancelled = True
            self.tokens -= flow.waiting
            self.flows -= flow.waiting > 0
            self._stale += flow.rows
            flow.waiting = flow.rows = 0

    def ahead_of(self, tokens: int) -> int:
        """Sub-tokens that will have run before a request of so many is done, if it came now; at most."""
        return min(self.tokens, self.flows * tokens)

    def next_batch(self, cost: Cost, max_tokens: int, runners: int = 1) -> tuple[list[R], list[R]]:
        """Take out the rows to run next.

        Args:
            max_tokens: padded sub-tokens of a batch at most, unless a single row has more.
            runners: how many share the work.

        Returns:
            The batch, empty if nothing waits; and abandoned rows that were met, which are forgotten
            with the rest of their requests.
        """
        most = min(max_tokens, max(cost.enough, 1))
        count, dropped = self._look_ahead(_LOOK_AHEAD * most)
        if not count:
            return [], dropped
        self._round = self._entries[0][0]
        if runners > 1:
            most = min(most, -(-self.tokens // runners))
        lengths = [row.length for _, _, _, row in self._entries[:count]]
        chosen = choose_batch(lengths, cost, most)
        taken = {index: self._entries.pop(index) for index in sorted(chosen, reverse=True)}
        for _, _, flow, row in taken.values():
            flow.rows -= 1
            flow.waiting -= row.length
            self.tokens -= row.length
            self.flows -= not flow.waiting
        return [taken[index][3] for index in chosen], dropped

    def _look_ahead(self, tokens: int) -> tuple[int, list[R]]:
        """How many entries from the first one hold so many sub-tokens; what is stale there goes."""
        dropped: list[R] = []
        walked = 0
        for _, _, flow, row in self._entries:
            walked += 1
            if not flow.cancelled and row.abandoned:
                dropped.append(row)
                self._forget(flow)
            if not flow.cancelled:
                tokens -= row.length
                if tokens <= 0 or walked == _MOST:
                    break
        alive = [entry for entry in self._entries[:walked] if not entry[2].cancelled]
        self._stale -= walked - len(alive)
        self._entries[:walked] = alive
        if not alive and self._entries:
            count, more = self._look_ahead(tokens)
            return count, dropped + more
        return len(alive), dropped


def choose_batch(lengths: Sequence[int], cost: Cost, max_tokens: int) -> list[int]:
    """Which rows to run with row 0, and it: those that make the batch cheapest a sub-token.

    They are neighbours by length, and no more than `max_tokens` when padded, unless row 0 alone is.
    O(rows of a batch, squared).
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    first = order.index(0)
    ordered = [lengths[i] for i in order]
    upto = [0, *accumulate(ordered)]
    best, span = float("inf"), (first, first + 1)
    for end in range(first + 1, len(order) + 1):
        longest = ordered[end - 1]
        lowest = max(0, end - max(1, max_tokens // longest))
        if lowest > first:
            break
        for start in range(first, lowest - 1, -1):
            price = cost.of(end - start, longest) / (upto[end] - upto[start])
            if price < best:
                best, span = price, (start, end)
    return order[slice(*span)]
