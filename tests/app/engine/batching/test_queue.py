from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.choice import overtaking
from app.engine.batching.queue import Queue
from app.engine.batching.size_classes import Flow
from app.engine.runtimes.cost import Cost
from tests.app.engine.batching.costs import costs


@dataclass(eq=False)
class Row:
    number: int
    length: int = 4
    deadline: float = inf


def add(queue: Queue[Row], *lengths: int, first: int = 0) -> Flow:
    """A request whose rows have these lengths and are numbered on from `first`."""
    flow = Flow(sum(lengths))
    queue.add(flow, [Row(number, length) for number, length in enumerate(lengths, first)])
    return flow


def take(
    queue: Queue[Row], cost: Cost, max_tokens: int, runners: int = 1, now: float = 0.0
) -> tuple[list[Row], list[Row]]:
    return queue.next_batch(cost, max_tokens, runners, now)


def drain(queue: Queue[Row], cost: Cost, max_tokens: int, runners: int = 1) -> list[list[int]]:
    batches = []
    while queue:
        batch, _ = take(queue, cost, max_tokens, runners)
        batches.append([row.number for row in batch])
    return batches


@given(
    lengths=st.lists(st.integers(1, 256), min_size=1, max_size=300),
    cost=costs,
    max_tokens=st.integers(1, 2000),
    runners=st.integers(1, 4),
)
def test_every_row_goes_once_the_oldest_next_and_no_batch_is_too_large(
    lengths: list[int], cost: Cost, max_tokens: int, runners: int
) -> None:
    queue: Queue[Row] = Queue()
    for number, length in enumerate(lengths):
        add(queue, length, first=number)
    waiting = list(range(len(lengths)))
    for batch in drain(queue, cost, max_tokens, runners):
        assert waiting[0] in batch
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= max_tokens
        waiting = [number for number in waiting if number not in batch]
    assert not waiting
    assert (queue.tokens, queue.flows) == (0, 0)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    cost=costs,
    max_tokens=st.integers(1, 500),
)
def test_requests_of_one_size_are_done_in_the_order_of_their_arrival(
    sizes: list[int], cost: Cost, max_tokens: int
) -> None:
    """They share batches, but none waits for a row of one that came later."""
    queue: Queue[Row] = Queue()
    for number, size in enumerate(sizes):
        add(queue, *[10] * size, first=100 * number)
    oldest = 0
    for batch in drain(queue, cost, max_tokens):
        assert any(number // 100 == oldest for number in batch)
        sizes = [size - sum(n // 100 == which for n in batch) for which, size in enumerate(sizes)]
        while oldest < len(sizes) and not sizes[oldest]:
            oldest += 1


@given(
    many=st.integers(1, 20),
    few=st.integers(1, 10),
    short=st.integers(1, 60),
    turns=st.integers(1, 200),
)
def test_size_classes_get_what_their_requests_are_worth(
    many: int, few: int, short: int, turns: int
) -> None:
    """While as many wait in each, a request of one class gets what one of the other does, but for a row."""
    queue: Queue[Row] = Queue()
    for _ in range(few):
        add(queue, *[30] * 400, first=1)
    for _ in range(many):
        add(queue, short)
    given = [0, 0]
    for _ in range(turns):
        ((row,), _) = take(queue, Cost(fixed=1e-6, per_token=1.0), 1)  # a row a turn
        given[row.number > 0] += row.length
        if not row.number:
            add(queue, short)
    assert abs(given[0] / many - given[1] / few) <= short / many + 30 / few + 1e-6


@given(
    newcomers=st.lists(st.integers(1, 60), min_size=1, max_size=200),
    crowd=st.integers(1, 20),
    length=st.integers(1, 60),
    cost=costs,
)
def test_no_row_starves_however_many_newcomers_there_are(
    newcomers: list[int], crowd: int, length: int, cost: Cost
) -> None:
    """A request of many windows gets on by one in every round, while others come without end."""
    queue: Queue[Row] = Queue()
    size = 20
    add(queue, *[length] * size, first=10_000)
    left, turns = size, 0
    while left:
        while queue.flows <= crowd:  # whoever is answered comes again at once
            add(queue, newcomers[turns % len(newcomers)])
        batch, _ = take(queue, cost, 64)
        left -= sum(row.number >= 10_000 for row in batch)
        turns += 1
        assert turns <= 60 * (crowd + 2) * size, "it starves"  # its rows may be 60 times as long


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=400),
    waiting=st.integers(1, 200),
    size=st.sampled_from([100, 1_000]),
    cost=costs,
    max_tokens=st.integers(1, 200),
)
def test_no_row_is_overtaken_by_more_than_may(
    lengths: list[int], waiting: int, size: int, cost: Cost, max_tokens: int
) -> None:
    """One of a rare length waits until it is the oldest, but others do not pass it without end."""
    queue: Queue[Row] = Queue()
    rows = [Row(number, length) for number, length in enumerate(lengths)]
    flow = Flow(size)
    overtaken = dict.fromkeys(range(len(rows)), 0)
    most = overtaking(cost, max_tokens, flow.size_class) + max(lengths)
    queue.add(flow, rows[:waiting])
    come = waiting
    while queue:
        batch, _ = take(queue, cost, max_tokens)
        for row in batch:
            del overtaken[row.number]
        for number in overtaken:
            overtaken[number] += sum(row.length for row in batch if row.number > number)
            assert overtaken[number] <= most
        queue.add(flow, rows[come : come + len(batch)])
        come += len(batch)


def test_what_comes_before_a_request_is_its_size_classes_and_meanwhile_the_others() -> None:
    queue: Queue[Row] = Queue()
    assert queue.before(1_000, {}) == 0
    for number in range(3):
        add(queue, *[10] * 100, first=1000 * number)
    assert queue.before(1_000, {}) == 3_000
    assert queue.before(1_000, {1: 500}) == 3_500
    assert queue.before(1_000, {}, drained=1_200) == 1_800
    assert queue.before(1_000, {}, drained=9_000) == 0
    assert queue.before(10, {}) == 30  # its turn comes as often as theirs
    assert queue.before(10_000, {}) == 3_000  # they are all done before it


def test_a_request_of_a_thousand_texts_does_not_hold_up_one_of_one() -> None:
    queue: Queue[Row] = Queue()
    add(queue, *[20] * 1000)
    drained: list[int] = []
    for _ in range(10):
        batch, _ = take(queue, Cost(), 40)
        drained += [row.number for row in batch]
    assert drained == list(range(20))
    add(queue, 20, first=5000)
    batch, _ = take(queue, Cost(), 20)
    second, _ = take(queue, Cost(), 20)
    assert 5000 in [row.number for row in [*batch, *second]]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=50), windows=st.integers(3, 60))
def test_a_batch_holds_requests_of_about_one_size(lengths: list[int], windows: int) -> None:
    queue: Queue[Row] = Queue()
    add(queue, *[128] * windows)
    for number, length in enumerate(lengths, 1_000):
        add(queue, length, first=number)
    for batch in drain(queue, Cost(fixed=1.0, padding=0.0), 10_000):
        assert len({number < 1_000 for number in batch}) == 1


def test_batches_of_large_requests_are_smaller_while_short_ones_come() -> None:
    cost, queue = Cost(fixed=1.0, per_token=1e-4), Queue[Row]()  # the larger a batch, the better
    add(queue, *[20] * 8_000)
    sizes = [len(take(queue, cost, 320)[0])]
    add(queue, 10, first=9_000)
    for _ in range(100):
        batch = [row.number for row in take(queue, cost, 320)[0]]
        sizes += [len(batch)] if 9_000 not in batch else []
    assert (sizes[0], sizes[3], sizes[-1]) == (16, 10, 16)


def test_runners_leave_each_other_their_share() -> None:
    queue: Queue[Row] = Queue()
    for number in range(8):
        add(queue, 10, first=number)
    batch, _ = take(queue, Cost(fixed=1.0, per_token=1e-6), 1000, 2)
    assert len(batch) == 4


@pytest.mark.parametrize("forget", [Queue.cancel, lambda queue, flow: None])
def test_what_nobody_waits_for_is_not_run(forget: Callable[[Queue[Row], Flow], None]) -> None:
    queue: Queue[Row] = Queue()
    left = Flow(1000)
    rows = [Row(number, 10) for number in range(100)]
    queue.add(left, rows)
    add(queue, 7, first=500)
    for row in rows:
        row.deadline = 1.0
    forget(queue, left)
    (batch, first), (nothing, second) = (
        take(queue, Cost(), 1000, now=2.0),
        take(queue, Cost(), 1000, now=2.0),
    )
    dropped = first + second
    assert ([row.number for row in batch], nothing) == ([500], [])
    assert len(dropped) == (0 if left.cancelled and forget is Queue.cancel else 1)
    assert (queue.tokens, queue.flows) == (0, 0)
    queue.add(left, [Row(1)])
    assert not queue


@given(st.lists(st.tuples(st.sampled_from("acn"), st.integers(1, 9)), max_size=400))
def test_tokens_and_requests_are_counted_right(steps: list[tuple[str, int]]) -> None:
    queue: Queue[Row] = Queue()
    flows: list[Flow] = []
    waiting: dict[Flow, list[int]] = {}
    owner: dict[Row, Flow] = {}
    for step, size in steps:
        if step == "a" or not flows:
            flow = flows[size] if size < len(flows) and size % 2 else Flow(100 * size)
            rows = [Row(0, size) for _ in range(size)]
            queue.add(flow, rows)
            if not flow.cancelled:
                owner |= dict.fromkeys(rows, flow)
                waiting.setdefault(flow, []).extend([size] * size)
                flows.append(flow)
        elif step == "c":
            flow = flows[size % len(flows)]
            queue.cancel(flow)
            waiting.pop(flow, None)
        else:
            batch, dropped = take(queue, Cost(), 5 * size)
            assert not dropped
            for row in batch:
                waiting[owner[row]].remove(row.length)
        assert queue.tokens == sum(map(sum, waiting.values()))
        assert queue.flows == sum(map(bool, waiting.values()))
