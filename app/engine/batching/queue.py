"""Queue: what waits to be run, and what runs next. It knows no thread and no clock.

*Turns.* Requests of about one size wait in one lane, first come, first served: to share the machine among
them window by window would only make all of them late. The lanes share it by self-clocked fair queueing
(Golestani 1994, "A self-clocked fair queueing scheme for broadband applications"), each with the weight of
its requests: a lane's next row is tagged with the sub-tokens that each request of the lane will have had,
on average, once that row has run, on a clock that each turn sets to its own tag. The lowest tag goes next.
So a request of a thousand texts does not hold up those of one, nor they it, and no row waits for ever.

*Batches.* The row whose turn it is runs, with those of its lane's next rows in turn that make the batch
cheapest a sub-token: nobody's sentence waits for a document's windows in its own batch. A batch is no
larger than pays: where its fixed cost has become small, more rows would only make everybody wait. Where
short requests come too, the larger a request the smaller its batches, as whoever comes next waits for them.
And it leaves the others of several runners their share of the work.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

from app.engine.batching.cost import Cost

_LOOK_AHEAD, _PACKED_AHEAD, _SHORT_AHEAD = 10, 4, 1.5
"""Rows considered at a time, in batches: more would cost time and hardly sort better. Fewer where padding
takes no time, as there is less to gain by sorting, and who is overtaken waits; and still fewer for short
requests, where the row that waits longest is somebody's whole answer."""

_OVERTAKING, _SHORT_OVERTAKING = 2, 1
"""Sub-tokens that may overtake a row of their lane, in such looks ahead; the latter for short requests
where padding takes no time. A row of a rare length has few neighbours and waits until it is the oldest:
without a bound a third more overtook it, and half of its request's time was theirs. For 64 clients that
send sentences, what is less for short requests, here and above, makes p99 a third shorter; batches then
take 4 % longer in a simulation, which did not show in the rate that was measured."""

_MOST = 1_024
"""Rows considered at most."""

_SHORT = 256
"""Sub-tokens of a short request. Those of up to so many are in the first lane, and each lane from there on
has those of up to 16 times as many."""

_WHILE_SHORT = 1.5
"""While short requests come, batches of the next lane are so many times smaller, and those of the lanes
above it again. In a simulation of a flood of requests of 64 texts with sentences among it, twice instead
took 1.5 % more of what was done in time."""

_RECENT = 64
"""Batches for which it is remembered that a short request has come."""


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


class Flow:
    """One request.

    Args:
        size: sub-tokens that it has in all, as far as is known before they are counted.

    Attributes:
        rows, tokens: of its rows, those that wait, and their sub-tokens.
    """

    __slots__ = ("cancelled", "lane", "rows", "tokens")

    def __init__(self, size: int):
        self.lane = lane_of(size)
        self.rows = 0
        self.tokens = 0
        self.cancelled = False


def lane_of(size: int) -> int:
    """The number of the lane of requests of so many sub-tokens."""
    return -(-(max(size - 1, 0) // _SHORT).bit_length() // 4)


class _Lane(Generic[R]):
    """Requests of about one size.

    Args:
        number: see `lane_of`.

    Attributes:
        entries: their rows in the order of arrival, each with the sub-tokens that ever came before it;
            among them some of requests that were cancelled.
        stale: how many such.
        came: sub-tokens that ever came.
        flows, tokens: requests that wait, and their sub-tokens.
        served: the tag of the last row that was given out.
    """

    __slots__ = ("came", "entries", "flows", "number", "served", "stale", "tokens")

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[tuple[Flow, R, int]] = []
        self.came = 0
        self.stale = 0
        self.flows = 0
        self.tokens = 0
        self.served = 0.0

    def add(self, flow: Flow, rows: Iterable[R]) -> None:
        """More rows of a request come."""
        before, entries = self.came, len(self.entries)
        for row in rows:
            self.entries.append((flow, row, self.came))
            self.came += row.length
        self.count(flow, len(self.entries) - entries, self.came - before)

    def count(self, flow: Flow, rows: int, tokens: int) -> None:
        """So many rows of a request come, or go where the numbers are negative."""
        waited = flow.rows > 0
        flow.rows += rows
        flow.tokens += tokens
        self.tokens += tokens
        self.flows += (flow.rows > 0) - waited

    def forget(self, flow: Flow) -> None:
        """A request is cancelled."""
        flow.cancelled = True
        self.stale += flow.rows
        self.count(flow, -flow.rows, -flow.tokens)

    def clean(self, count: int) -> None:
        """Drop what is stale among the first entries."""
        if self.stale:
            alive = [entry for entry in self.entries[:count] if not entry[0].cancelled]
            self.stale -= count - len(alive)
            self.entries[:count] = alive

    def next_tag(self) -> float:
        """The tag of the next row; there must be one."""
        (row,) = self.first(1, most=1)
        return self.served + row.length / self.flows

    def take(self, places: Iterable[int]) -> None:
        """Give out the rows of some entries."""
        flows = self.flows
        for place in sorted(places, reverse=True):
            flow, row, _ = self.entries.pop(place)
            self.served += row.length / flows
            self.count(flow, -1, -row.length)

    def first(self, tokens: int, overtaking: int = 0, most: int = _MOST) -> list[R]:
        """The first rows, which have so many sub-tokens or are so many, and are the first entries then;
        fewer where `overtaking` sub-tokens came between. Abandoned ones are among them."""
        rows: list[R] = []
        walked, last = 0, 0
        for flow, row, came in self.entries:
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
        self.clean(walked)
        return rows


class Queue(Generic[R]):
    """Rows that wait."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane[R]] = {}
        self._clock = 0.0
        self._without_short = _RECENT  # batches since a short request came

    @property
    def tokens(self) -> int:
        """Sub-tokens that wait."""
        return sum(lane.tokens for lane in list(self._lanes.values()))  # others may add lanes meanwhile

    @property
    def flows(self) -> int:
        """Requests that they belong to."""
        return sum(lane.flows for lane in list(self._lanes.values()))

    def __bool__(self) -> bool:
        return any(lane.tokens for lane in list(self._lanes.values()))

    def add(self, flow: Flow, rows: Iterable[R]) -> None:
        """Queue more rows of a request, in order; of one that was cancelled, forget them."""
        if flow.cancelled:
            return
        lane = self._lanes.setdefault(flow.lane, _Lane(flow.lane))
        if not lane.tokens:
            lane.served = max(lane.served, self._clock)
        lane.add(flow, rows)
        if flow.lane == 0:
            self._without_short = 0

    def cancel(self, flow: Flow) -> None:
        """Forget a request's rows, and those that it may still bring."""
        if flow.cancelled:
            return
        lane = self._lanes.setdefault(flow.lane, _Lane(flow.lane))
        lane.forget(flow)
        # They go in their turn as well, but that may be far.
        if not lane.tokens or 2 * lane.stale > 64 + len(lane.entries):
            lane.clean(len(lane.entries))

    def before(self, size: int, coming: Mapping[int, int], drained: int = 0) -> int:
        """Sub-tokens that will run before a request of so many is done, were it to come now: what its lane
        has, and meanwhile the others.

        Args:
            coming: sub-tokens of each lane that will be queued before it.
            drained: were it to come when so many have run.
        """
        number = lane_of(size)
        lane = self._lanes.get(number, _Lane(number))
        share = (lane.flows + 1) / (self.flows + 1)
        queued = max(lane.tokens + coming.get(number, 0) - drained * share, 0)
        all_of_it = max(self.tokens + sum(coming.values()) - drained, 0)
        return min(all_of_it, int((queued + size) / share) - size)

    def next_batch(self, cost: Cost, max_tokens: int, runners: int = 1) -> tuple[list[R], list[R]]:
        """Take out the rows to run next.

        Args:
            max_tokens: padded sub-tokens of a batch at most, unless a single row has more.
            runners: how many share the work.

        Returns:
            The batch, empty if nothing waits; and abandoned rows that were met, which are forgotten
            with the rest of their requests.
        """
        dropped: list[R] = []
        while lane := self._lane_in_turn():
            limits = cost, max_tokens, lane.number
            rows = lane.first(look_ahead(*limits), overtaking(*limits))
            abandoned = [(lane.entries[place][0], row) for place, row in enumerate(rows) if row.abandoned]
            for flow, row in abandoned:
                if not flow.cancelled:
                    dropped.append(row)
                    self.cancel(flow)
            if not abandoned:
                break
        else:
            return [], dropped
        most = cost.enough
        if lane.number and self._without_short < _RECENT:
            most = min(most, max_tokens) / _WHILE_SHORT ** min(lane.number, 2)
        self._without_short += 1
        if runners > 1:
            most = min(most, -(-self.tokens // runners))
        chosen = choose_batch([row.length for row in rows], cost, max_tokens, most)
        self._clock = lane.next_tag()
        lane.take(chosen)
        return [rows[place] for place in chosen], dropped

    def _lane_in_turn(self) -> _Lane[R] | None:
        """The lane whose next row has the lowest tag; None where nothing waits."""
        waiting = [lane for lane in self._lanes.values() if lane.tokens]
        return min(waiting, key=_Lane.next_tag, default=None)


def look_ahead(cost: Cost, max_tokens: int, lane: int) -> int:
    """Sub-tokens of the rows that a batch of a lane is chosen among."""
    packed = _PACKED_AHEAD if lane else _SHORT_AHEAD
    batches = packed + (_LOOK_AHEAD - packed) * cost.padding
    return int(batches * min(max_tokens, cost.enough)) + 1


def overtaking(cost: Cost, max_tokens: int, lane: int) -> int:
    """Sub-tokens that may come later than a row of their lane and run before it."""
    packed = _OVERTAKING if lane else _SHORT_OVERTAKING
    looks = packed + (_OVERTAKING - packed) * cost.padding
    return int(looks * look_ahead(cost, max_tokens, lane))


def choose_batch(
    lengths: Sequence[int], cost: Cost, max_tokens: int, most: float = float("inf")
) -> list[int]:
    """Which rows to run with row 0, and it: those that make the batch cheapest a sub-token.

    They are neighbours by length. More than one have at most `max_tokens` when padded, and at most the
    size `most`. O(rows of a batch, squared), of hundreds of rows a sample.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    first = order.index(0)
    ordered = [lengths[i] for i in order]
    upto = [0, *accumulate(ordered)]
    best, span = float("inf"), (first, first + 1)
    for end in range(first + 1, len(order) + 1, 1 + len(order) // 256):
        longest = ordered[end - 1]
        lowest = max(0, end - max(1, max_tokens // longest))
        if lowest > first:
            break
        for start in range(first, lowest - 1, -1 - (first - lowest) // 32):
            rows, tokens = end - start, upto[end] - upto[start]
            size = cost.size(rows, longest, tokens)
            if size > most and rows > 1:
                break
            price = (cost.fixed + cost.per_token * size) / tokens
            if price < best:
                best, span = price, (start, end)
    return order[slice(*span)]
