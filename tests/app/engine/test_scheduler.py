import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.scheduler import BatchReport, Cost, Scheduler, next_batch, split_batches
from app.errors import Busy, InferenceFailed, NerveError, NotReady

costs = st.builds(Cost, fixed=st.floats(1e-6, 1e-1), per_token=st.floats(1e-7, 1e-3))
COST = Cost()
lengths_of_rows = st.lists(st.integers(1, 40), min_size=1, max_size=9)


@dataclass
class Row:
    """A row that remembers what happened to it."""

    number: int
    length: int = 4
    abandoned: bool = False
    error: NerveError | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def done(self, error: NerveError | None) -> None:
        self.error = error
        self.ended.set()


class Runner:
    """What a scheduler runs: notes each batch, and waits for `go` before it ends."""

    def __init__(self, go: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.reports: list[BatchReport] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        if go:
            self.go.set()

    def __call__(self, rows: Sequence[Row]) -> None:
        self.batches.append([row.number for row in rows])
        self.entered.set()
        self.go.wait()

    def scheduler(self, cost: Cost = COST, queue: int = 1000, batch: int = 64) -> Scheduler[Row]:
        return Scheduler(self, cost, queue, batch, self.reports.append)


def cuts(count: int) -> list[list[int]]:
    """Every way to cut a row of `count` into batches, as the batches' ends."""
    if count == 0:
        return [[]]
    return [[*ends, count] for size in range(1, count + 1) for ends in cuts(count - size)]


def price(ends: Sequence[int], lengths: Sequence[int], cost: Cost, max_tokens: int) -> float:
    total, start = 0.0, 0
    for end in ends:
        rows, longest = end - start, max(lengths[start:end])
        if rows > 1 and rows * longest > max_tokens:
            return float("inf")
        total, start = total + cost.of(rows, longest), end
    return total


@given(lengths=lengths_of_rows, cost=costs, max_tokens=st.integers(1, 200))
def test_batches_are_the_cheapest_there_are(lengths: list[int], cost: Cost, max_tokens: int) -> None:
    lengths.sort()
    found = price(split_batches(lengths, cost, max_tokens), lengths, cost, max_tokens)
    best = min(price(ends, lengths, cost, max_tokens) for ends in cuts(len(lengths)))
    assert found == pytest.approx(best, rel=1e-9)


@given(lengths=st.lists(st.integers(1, 300), max_size=60), cost=costs, max_tokens=st.integers(1, 2000))
def test_no_batch_exceeds_the_limit_unless_one_row_does(
    lengths: list[int], cost: Cost, max_tokens: int
) -> None:
    lengths.sort()
    start = 0
    for end in split_batches(lengths, cost, max_tokens):
        assert end > start
        assert end - start == 1 or (end - start) * lengths[end - 1] <= max_tokens
        start = end
    assert start == len(lengths)


@given(lengths=lengths_of_rows, cost=costs, max_tokens=st.integers(1, 200))
def test_the_oldest_row_is_always_in_the_next_batch(
    lengths: list[int], cost: Cost, max_tokens: int
) -> None:
    batch = next_batch(lengths, cost, max_tokens)
    assert 0 in batch
    assert len(set(batch)) == len(batch)


def test_a_cheap_start_makes_small_batches_and_a_dear_one_large() -> None:
    lengths = [4, 5, 30, 31]
    assert split_batches(lengths, Cost(fixed=1e-6, per_token=1e-3), 1000) == [1, 2, 3, 4]
    assert split_batches(lengths, Cost(fixed=1.0, per_token=1e-6), 1000) == [4]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=300),
    cost=costs,
    max_tokens=st.integers(1, 500),
)
def test_every_row_is_run_once_and_the_oldest_goes_next(
    lengths: list[int], cost: Cost, max_tokens: int
) -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler(cost, 10**6, max_tokens)
    scheduler.submit([Row(-1)])
    runner.entered.wait()
    rows = [Row(number, length) for number, length in enumerate(lengths)]
    scheduler.submit(rows)
    runner.go.set()
    scheduler.close()
    assert runner.batches.pop(0) == [-1]
    waiting = list(range(len(lengths)))
    for batch in runner.batches:
        assert waiting[0] in batch
        waiting = [number for number in waiting if number not in batch]
    assert not waiting
    assert sorted(n for batch in runner.batches for n in batch) == list(range(len(lengths)))
    assert scheduler.waiting_tokens == 0


def test_rows_that_come_while_a_batch_runs_go_together() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler(Cost(fixed=1.0, per_token=1e-6))
    scheduler.submit([Row(0)])
    runner.entered.wait()
    for number in range(1, 5):
        scheduler.submit([Row(number)])
    runner.go.set()
    scheduler.close()
    assert runner.batches == [[0], [1, 2, 3, 4]]


def test_abandoned_rows_are_not_run() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler()
    scheduler.submit([Row(0)])
    runner.entered.wait()
    left = Row(1)
    scheduler.submit([left, Row(2)])
    left.abandoned = True
    runner.go.set()
    scheduler.close()
    assert [n for batch in runner.batches for n in batch] == [0, 2]
    assert scheduler.waiting_tokens == 0


def test_a_full_queue_takes_all_of_a_request_or_none() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler(queue=10)
    scheduler.submit([Row(0)])
    runner.entered.wait()
    scheduler.submit([Row(1), Row(2)])
    with pytest.raises(Busy) as refused:
        scheduler.submit([Row(3, 1), Row(4, 9)])
    assert refused.value.retry_after > 0
    scheduler.submit([Row(5, 2)])
    assert scheduler.waiting_tokens == 10
    runner.go.set()
    scheduler.close()
    assert sorted(n for batch in runner.batches for n in batch) == [0, 1, 2, 5]


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    runner = Runner()
    scheduler = runner.scheduler(queue=10)
    rows = [Row(number, 8) for number in range(50)]
    scheduler.submit(rows)
    scheduler.close()
    assert all(row.ended.is_set() for row in rows)


@pytest.mark.parametrize("raised", [InferenceFailed("out of memory"), ZeroDivisionError("no")])
def test_a_batch_that_fails_fails_its_own_rows_only(raised: Exception) -> None:
    def run(rows: Sequence[Row]) -> None:
        if any(row.number == 13 for row in rows):
            raise raised

    reports: list[BatchReport] = []
    scheduler: Scheduler[Row] = Scheduler(run, Cost(), 1000, 64, reports.append)
    bad, good = Row(13), Row(14)
    scheduler.submit([bad])
    bad.ended.wait()
    scheduler.submit([good])
    scheduler.close()
    assert isinstance(bad.error, InferenceFailed)
    assert good.error is None
    assert good.ended.is_set()
    assert [report.failed for report in reports] == [True, False]


def run_each(scheduler: Scheduler[Row], numbers: Sequence[int]) -> None:
    """Run rows one after another, each in a batch of its own."""
    for number in numbers:
        row = Row(number)
        scheduler.submit([row])
        row.ended.wait()


@pytest.mark.parametrize(
    ("outcomes", "failing"),
    [
        ("--", False),
        ("--+--", False),
        ("---", True),
        ("+---+++", True),
        ("~~~~", False),
    ],
)
def test_three_batches_that_fail_in_a_row_are_noted_for_good(outcomes: str, failing: bool) -> None:
    raised = {"-": InferenceFailed("broken"), "~": NotReady("closed"), "+": None}

    def run(rows: Sequence[Row]) -> None:
        if error := raised[outcomes[rows[0].number]]:
            raise error

    scheduler: Scheduler[Row] = Scheduler(run, Cost(), 1000, 64, lambda _: None)
    run_each(scheduler, range(len(outcomes)))
    assert scheduler.failing is failing
    scheduler.close()


def test_an_error_that_nobody_foresaw_counts_as_a_failure() -> None:
    def run(rows: Sequence[Row]) -> None:
        raise ZeroDivisionError

    scheduler: Scheduler[Row] = Scheduler(run, Cost(), 1000, 64, lambda _: None)
    run_each(scheduler, range(3))
    assert scheduler.failing
    scheduler.close()


def test_it_is_idle_where_nothing_waits_and_nothing_runs() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler()
    assert scheduler.idle
    scheduler.submit([Row(0)])
    assert not scheduler.idle
    runner.entered.wait()
    assert not scheduler.idle
    runner.go.set()
    scheduler.close()
    assert scheduler.idle


def test_closing_waits_for_a_lone_row() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler()
    row = Row(0)
    alone = threading.Thread(target=scheduler.run_if_idle, args=(row,))
    closing = threading.Thread(target=scheduler.close)
    alone.start()
    runner.entered.wait()
    closing.start()
    runner.go.set()
    closing.join()
    row.ended.wait()
    assert row.error is None


def test_what_begins_is_called_first_on_its_thread() -> None:
    begun: list[str] = []
    runner = Runner()

    def begin() -> None:
        begun.append(threading.current_thread().name)

    scheduler: Scheduler[Row] = Scheduler(runner, COST, 9, 9, lambda _: None, "mine", begin)
    run_each(scheduler, [0])
    scheduler.close()
    assert begun == ["mine"]


def test_a_report_tells_what_was_run() -> None:
    runner = Runner()
    scheduler = runner.scheduler(Cost(fixed=1.0, per_token=1e-6))
    scheduler.submit([Row(0, 3), Row(1, 5)])
    scheduler.close()
    (report,) = runner.reports
    assert (report.rows, report.longest, report.tokens) == (2, 5, 8)
    assert len(report.waited) == 2
    assert not report.failed


def test_closing_runs_what_is_queued_and_takes_no_more() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler()
    row = Row(0)
    scheduler.submit([row])
    assert scheduler.alive
    runner.go.set()
    scheduler.close()
    assert row.ended.is_set()
    assert not scheduler.alive
    with pytest.raises(NotReady):
        scheduler.submit([Row(1)])


def test_many_threads_may_submit() -> None:
    runner = Runner()
    scheduler = runner.scheduler(queue=10**6)

    def submit(base: int) -> None:
        for number in range(base, base + 100):
            scheduler.submit([Row(number)])

    threads = [threading.Thread(target=submit, args=(base,)) for base in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scheduler.close()
    assert sorted(n for batch in runner.batches for n in batch) == list(range(800))


def test_a_lone_row_runs_on_its_callers_thread_only_where_nothing_else_runs() -> None:
    runner = Runner(go=False)
    scheduler = runner.scheduler()
    first, second = Row(0), Row(1)
    alone = threading.Thread(target=scheduler.run_if_idle, args=(first,))
    alone.start()
    runner.entered.wait()
    assert not scheduler.run_if_idle(second)
    scheduler.submit([second])
    assert runner.batches == [[0]]  # two batches never run at a time
    runner.go.set()
    second.ended.wait()
    alone.join()
    assert runner.batches == [[0], [1]]
    scheduler.close()
    assert not scheduler.run_if_idle(Row(2))
