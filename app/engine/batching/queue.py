"""Queue holds the rows that wait, and chooses which run next. It uses no thread and no clock.

*Turns.* Requests of about one size form a size class (`size_classes`), which serves them in their order.
The size classes share the machine by self-clocked fair queueing (Golestani 1994, "A self-clocked fair
queueing scheme for broadband applications"), each with the number of its requests as its weight. The tag of
a class's next row is the number of sub-tokens that each of its requests has had on average once that row
has run. The class with the lowest tag has its turn, and the clock is set to this tag. So requests of one
text and of a thousand do not hold each other up, and no row waits for ever.

*Batches.* The row whose turn it is runs with others of its size class (`choice`), so no sentence shares a
batch with a document's windows. While short requests come, batches of larger ones are smaller, because the
next short request waits for them. A batch also leaves the other runners their share of the work.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Generic, TypeVar

from app.engine.batching.choice import choose_batch, look_ahead, overtaking
from app.engine.batching.size_classes import Flow, QueuedRow, SizeClass, size_class_of
from app.engine.runtimes.cost import Cost

R = TypeVar("R", bound=QueuedRow)

_WHILE_SHORT = 1.5
"""While short requests come, batches of larger ones are this many times smaller."""

_RECENT = 64
"""A short request makes batches of larger requests smaller, up to the batch with this number after it."""


class Queue(Generic[R]):
    """Holds the rows that wait.

    Attributes:
        tokens: the number of sub-tokens that wait.
    """

    def __init__(self) -> None:
        self._classes: dict[int, SizeClass[R]] = {}
        self.tokens = 0
        self._clock = 0.0
        self._without_short = _RECENT  # batches since a short request came

    def __bool__(self) -> bool:
        return self.tokens > 0

    @property
    def flows(self) -> int:
        """Count the requests that have rows in the queue."""
        return sum(line.flows for line in self._classes.values())

    def add(self, flow: Flow, rows: Iterable[R]) -> None:
        """Queue more rows of a request, in order; drop them if it was cancelled."""
        if flow.cancelled:
            return
        line = self._line(flow.size_class)
        if not line.tokens:
            line.served = max(line.served, self._clock)
        self.tokens += line.add(flow, rows)
        if flow.size_class == 0:
            self._without_short = 0

    def cancel(self, flow: Flow) -> None:
        """Drop a request's rows, and those that may still be added for it."""
        if not flow.cancelled:
            self.tokens -= flow.tokens
            self._line(flow.size_class).forget(flow)

    def tokens_of(self, size_class: int) -> int:
        """Count the sub-tokens of a size class that wait."""
        line = self._classes.get(size_class)
        return line.tokens if line else 0

    def until(self, size_class: int, tokens: int) -> int:
        """Return how many sub-tokens, of all size classes, run until a size class has run some."""
        line = self._classes.get(size_class)
        flows = max(line.flows, 1) if line else 1  # one at least is still to be queued
        return tokens * max(self.flows, flows) // flows

    def before(self, size: int, coming: Mapping[int, int], drained: int = 0) -> int:
        """Return how many sub-tokens, of all size classes, would run before a new request is done.

        The request shares the machine with the other size classes until its last row runs.

        Args:
            size: sub-tokens of the request.
            coming: sub-tokens of each size class that will be queued before it.
            drained: sub-tokens that run before the request comes.
        """
        number = size_class_of(size)
        line = self._classes.get(number) or SizeClass(number)
        share = (line.flows + 1) / (self.flows + 1)
        queued = max(line.tokens + coming.get(number, 0) - drained * share, 0)
        all_of_it = max(self.tokens + sum(coming.values()) - drained, 0)
        return min(all_of_it, int((queued + size) / share) - size)

    def next_batch(self, cost: Cost, max_tokens: int, runners: int, now: float) -> tuple[list[R], list[R]]:
        """Take out the rows to run next.

        Args:
            max_tokens: the most sub-tokens of a batch, padding included, unless a single row has more.
            runners: how many share the work.
            now: the time, in the unit of the rows' deadlines; rows with an earlier deadline are not run.

        Returns:
            The batch, which is empty if no row waits; and one row of each late request that was found. All
            rows of late requests are dropped.
        """
        late: list[R] = []
        while line := self._line_in_turn():
            rows = line.first(look_ahead(cost, max_tokens), overtaking(cost, max_tokens, line.number))
            met = [(line.flow_at(place), row) for place, row in enumerate(rows) if row.deadline < now]
            for flow, row in met:
                if not flow.cancelled:
                    late.append(row)
                    self.cancel(flow)
            if not met:
                break
        else:
            return [], late
        most = inf
        if line.number and self._without_short < _RECENT:
            most = max_tokens / _WHILE_SHORT
        self._without_short += 1
        if runners > 1:
            most = min(most, -(-self.tokens // runners))
        chosen = choose_batch([row.length for row in rows], cost, max_tokens, most)
        self._clock = line.next_tag()
        self.tokens -= line.take(chosen)
        return [rows[place] for place in chosen], late

    def _line(self, number: int) -> SizeClass[R]:
        if number not in self._classes:
            self._classes[number] = SizeClass(number)
        return self._classes[number]

    def _line_in_turn(self) -> SizeClass[R] | None:
        """Return the size class whose next row has the lowest tag; None if no row waits."""
        waiting = [line for line in self._classes.values() if line.tokens]
        if len(waiting) < 2:
            return waiting[0] if waiting else None
        return min(waiting, key=SizeClass.next_tag)
