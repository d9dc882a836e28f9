from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.cost import Cost
from app.engine.batching.queue import Flow, Queue, choose_batch, overtaking

costs = st.builds(
    Cost, st.floats(1e-6, 1e-1), st.floats(1e-7, 1e-3), st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 0.1)
)
lengths_of_rows = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@dataclass(eq=False)
class Row:
    number: int
    length: int = 4
    abandoned: bool = False


def add(backlog: Queue[Row], *lengths: int, first: int = 0) -> Flow:
    """A request whose rows have these lengths and are numbered on from `first`."""
    flow = Flow(sum(lengths))
    backlog.add(flow, [Row(number, length) for number, length in enumerate(lengths, first)])
    return flow


def drain(backlog: Queue[Row], cost: Cost, max_tokens: int, runners: int = 1) -> list[list[int]]:
    batches = []
    while backlog:
        batch, _ = backlog.next_batch(cost, max_tokens, runners)
        batches.append([row.number for row in batch])
    return batches


def price(rows: Sequence[int], lengths: Sequence[int], cost: Cost) -> float:
    """Seconds a sub-token of a batch of these rows."""
    chosen = [lengths[row] for row in rows]
    return cost.of(len(chosen), max(chosen), sum(chosen)) / sum(chosen)


@given(lengths=lengths_of_rows, cost=costs, max_tokens=st.integers(1, 200))
def test_a_batch_is_the_cheapest_of_its_neighbours_by_length(
    lengths: list[int], cost: Cost, max_tokens: int
) -> None:
    chosen = choose_batch(lengths, cost, max_tokens)
    assert 0 in chosen
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    runs = [order[a:b] for a in range(len(order)) for b in range(a + 1, len(order) + 1)]
    fitting = [
        run
        for run in runs
        if 0 in run and (run == [0] or len(run) * max(lengths[row] for row in run) <= max_tokens)
    ]
    assert price(chosen, lengths, cost) == pytest.approx(min(price(run, lengths, cost) for run in fitting))


def test_a_cheap_start_makes_small_batches_and_a_dear_one_large() -> None:
    lengths = [4, 5, 30, 31]
    assert choose_batch(lengths, Cost(fixed=1e-6, per_token=1e-3), 1000) == [0]
    assert sorted(choose_batch(lengths, Cost(fixed=1.0, per_token=1e-6), 1000)) == [0, 1, 2, 3]


@given(
    lengths=st.lists(st.integers(1, 256), min_size=1, max_size=300),
    cost=costs,
    max_tokens=st.integers(1, 2000),
    runners=st.integers(1, 4),
)
def test_every_row_goes_once_the_oldest_next_and_no_batch_is_too_large(
    lengths: list[int], cost: Cost, max_tokens: int, runners: int
) -> None:
    backlog: Queue[Row] = Queue()
    for number, length in enumerate(lengths):
        add(backlog, length, first=number)
    waiting = list(range(len(lengths)))
    for batch in drain(backlog, cost, max_tokens, runners):
        assert waiting[0] in batch
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= max_tokens
        waiting = [number for number in waiting if number not in batch]
    assert not waiting
    assert (backlog.tokens, backlog.flows) == (0, 0)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    cost=costs,
    max_tokens=st.integers(1, 500),
)
def test_requests_of_one_size_are_done_in_the_order_of_their_arrival(
    sizes: list[int], cost: Cost, max_tokens: int
) -> None:
    """They share batches, but none waits for a row of one that came later."""
    backlog: Queue[Row] = Queue()
    for number, size in enumerate(sizes):
        add(backlog, *[10] * size, first=100 * number)
    oldest = 0
    for batch in drain(backlog, cost, max_tokens):
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
def test_lanes_get_what_their_requests_are_worth(many: int, few: int, short: int, turns: int) -> None:
    """While as many wait in each, a request of one lane gets what one of the other does, but for a row."""
    backlog: Queue[Row] = Queue()
    for _ in range(few):
        add(backlog, *[30] * 400, first=1)
    for _ in range(many):
        add(backlog, short)
    given = [0, 0]
    for _ in range(turns):
        ((row,), _) = backlog.next_batch(Cost(fixed=1e-6, per_token=1.0), 1)  # a row a turn
        given[row.number > 0] += row.length
        if not row.number:
            add(backlog, short)
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
    backlog: Queue[Row] = Queue()
    size = 20
    add(backlog, *[length] * size, first=10_000)
    left, turns = size, 0
    while left:
        while backlog.flows <= crowd:  # whoever is answered comes again at once
            add(backlog, newcomers[turns % len(newcomers)])
        batch, _ = backlog.next_batch(cost, 64)
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
    backlog: Queue[Row] = Queue()
    rows = [Row(number, length) for number, length in enumerate(lengths)]
    flow = Flow(size)
    overtaken = dict.fromkeys(range(len(rows)), 0)
    most = overtaking(cost, max_tokens, flow.lane) + max(lengths)
    backlog.add(flow, rows[:waiting])
    come = waiting
    while backlog:
        batch, _ = backlog.next_batch(cost, max_tokens)
        for row in batch:
            del overtaken[row.number]
        for number in overtaken:
            overtaken[number] += sum(row.length for row in batch if row.number > number)
            assert overtaken[number] <= most
        backlog.add(flow, rows[come : come + len(batch)])
        come += len(batch)


def test_what_comes_before_a_request_is_its_lanes_and_meanwhile_the_others() -> None:
    backlog: Queue[Row] = Queue()
    assert backlog.before(1_000, {}) == 0
    for number in range(3):
        add(backlog, *[10] * 100, first=1000 * number)
    assert backlog.before(1_000, {}) == 3_000
    assert backlog.before(1_000, {1: 500}) == 3_500
    assert backlog.before(1_000, {}, drained=1_200) == 1_800
    assert backlog.before(1_000, {}, drained=9_000) == 0
    assert backlog.before(10, {}) == 30  # its turn comes as often as theirs
    assert backlog.before(10_000, {}) == 3_000  # they are all done before it


def test_a_request_of_a_thousand_texts_does_not_hold_up_one_of_one() -> None:
    backlog: Queue[Row] = Queue()
    add(backlog, *[20] * 1000)
    drained: list[int] = []
    for _ in range(10):
        batch, _ = backlog.next_batch(Cost(), 40)
        drained += [row.number for row in batch]
    assert drained == list(range(20))
    add(backlog, 20, first=5000)
    batch, _ = backlog.next_batch(Cost(), 20)
    second, _ = backlog.next_batch(Cost(), 20)
    assert 5000 in [row.number for row in [*batch, *second]]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=50), windows=st.integers(3, 60))
def test_a_batch_holds_requests_of_about_one_size(lengths: list[int], windows: int) -> None:
    backlog: Queue[Row] = Queue()
    add(backlog, *[128] * windows)
    for number, length in enumerate(lengths, 1_000):
        add(backlog, length, first=number)
    for batch in drain(backlog, Cost(fixed=1.0, padding=0.0), 10_000):
        assert len({number < 1_000 for number in batch}) == 1


def test_batches_of_large_requests_are_smaller_while_short_ones_come() -> None:
    cost, backlog = Cost(fixed=1e-3, per_token=1e-4), Queue[Row]()  # 320 sub-tokens are enough
    add(backlog, *[20] * 8_000)
    sizes = [len(backlog.next_batch(cost, 10_000)[0])]
    add(backlog, 10, first=9_000)
    for _ in range(100):
        batch = [row.number for row in backlog.next_batch(cost, 10_000)[0]]
        sizes += [len(batch)] if 9_000 not in batch else []
    assert (sizes[0], sizes[3], sizes[-1]) == (16, 7, 16)


def test_runners_leave_each_other_their_share() -> None:
    backlog: Queue[Row] = Queue()
    for number in range(8):
        add(backlog, 10, first=number)
    batch, _ = backlog.next_batch(Cost(fixed=1.0, per_token=1e-6), 1000, runners=2)
    assert len(batch) == 4


@pytest.mark.parametrize("forget", [Queue.cancel, lambda backlog, flow: None])
def test_what_nobody_waits_for_is_not_run(forget: Callable[[Queue[Row], Flow], None]) -> None:
    backlog: Queue[Row] = Queue()
    left = Flow(1000)
    rows = [Row(number, 10) for number in range(100)]
    backlog.add(left, rows)
    add(backlog, 7, first=500)
    for row in rows:
        row.abandoned = True
    forget(backlog, left)
    (batch, first), (nothing, second) = backlog.next_batch(Cost(), 1000), backlog.next_batch(Cost(), 1000)
    dropped = first + second
    assert ([row.number for row in batch], nothing) == ([500], [])
    assert len(dropped) == (0 if left.cancelled and forget is Queue.cancel else 1)
    assert (backlog.tokens, backlog.flows) == (0, 0)
    backlog.add(left, [Row(1)])
    assert not backlog


@given(st.lists(st.tuples(st.sampled_from("acn"), st.integers(1, 9)), max_size=400))
def test_tokens_and_requests_are_counted_right(steps: list[tuple[str, int]]) -> None:
    backlog: Queue[Row] = Queue()
    flows: list[Flow] = []
    waiting: dict[Flow, list[int]] = {}
    owner: dict[Row, Flow] = {}
    for step, size in steps:
        if step == "a" or not flows:
            flow = flows[size] if size < len(flows) and size % 2 else Flow(100 * size)
            rows = [Row(0, size) for _ in range(size)]
            backlog.add(flow, rows)
            if not flow.cancelled:
                owner |= dict.fromkeys(rows, flow)
                waiting.setdefault(flow, []).extend([size] * size)
                flows.append(flow)
        elif step == "c":
            flow = flows[size % len(flows)]
            backlog.cancel(flow)
            waiting.pop(flow, None)
        else:
            batch, dropped = backlog.next_batch(Cost(), 5 * size)
            assert not dropped
            for row in batch:
                waiting[owner[row]].remove(row.length)
        assert backlog.tokens == sum(map(sum, waiting.values()))
        assert backlog.flows == sum(map(bool, waiting.values()))
