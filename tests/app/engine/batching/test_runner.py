import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.engine.batching.cost import Cost
from app.engine.batching.queue import Flow
from app.engine.batching.runner import BatchReport, Scheduler
from app.errors import Busy, DeadlineExceeded, InferenceFailed, NerveError, NotReady

COST = Cost()
DEAR = Cost(fixed=1.0, per_token=1e-6)
"""A start so dear that all that waits goes together."""


@dataclass(eq=False)
class Row:
    """A row that remembers what happened to it."""

    number: int
    length: int = 4
    abandoned: bool = False
    error: NerveError | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    since: float = 0.0
    tokenize_seconds: float = 0.5


class Work:
    """What a scheduler runs: notes each batch, and waits for `go` before it ends.

    Args:
        raised: what the batch of a row raises.
    """

    def __init__(self, go: bool = True, raised: Callable[[int], Exception | None] = lambda number: None):
        self.batches: list[list[int]] = []
        self.alone: list[bool] = []
        self.reports: list[BatchReport] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self._raised = raised
        if go:
            self.go.set()

    def prepare(self) -> Sequence[tuple[Flow, Sequence[Row]]]:
        return []

    def run(self, rows: Sequence[Row], alone: bool) -> None:
        self.batches.append([row.number for row in rows])
        self.alone.append(alone)
        self.entered.release()
        self.go.wait()
        for row in rows:
            if error := self._raised(row.number):
                raise error

    def finish(self, rows: Sequence[Row], error: NerveError | None) -> None:
        for row in rows:
            row.error = error
            row.ended.set()

    def scheduler(
        self, cost: Cost = COST, runners: int = 1, queue: int = 1000, batch: int = 64, **options: Any
    ) -> Scheduler[Row]:
        return Scheduler(self, cost, runners, queue, batch, self.reports.append, **options)


def send(scheduler: Scheduler[Row], *rows: Row, seconds: float | None = None) -> Flow:
    """Queue rows as one request."""
    tokens = sum(row.length for row in rows)
    scheduler.admit(tokens, seconds)
    flow = Flow(tokens)
    scheduler.submit(flow, rows)
    scheduler.withdraw(tokens)
    return flow


def run_each(scheduler: Scheduler[Row], numbers: Sequence[int]) -> None:
    """Run rows one after another, each in a batch of its own."""
    for number in numbers:
        row = Row(number)
        send(scheduler, row)
        row.ended.wait()


def test_rows_that_come_while_a_batch_runs_go_together() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(DEAR)
    send(scheduler, Row(0))
    work.entered.acquire()
    for number in range(1, 5):
        send(scheduler, Row(number))
    work.go.set()
    scheduler.close()
    assert work.batches == [[0], [1, 2, 3, 4]]


def test_runners_run_at_a_time() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(runners=3)
    for number in range(3):
        send(scheduler, Row(number))
        work.entered.acquire()
    send(scheduler, Row(3))
    assert sorted(work.batches) == [[0], [1], [2]]
    work.go.set()
    scheduler.close()
    assert sorted(work.batches) == [[0], [1], [2], [3]]


def test_a_batch_is_alone_where_nothing_else_runs_or_waits() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(runners=2)
    send(scheduler, Row(0))
    work.entered.acquire()
    send(scheduler, Row(1))
    work.entered.acquire()
    send(scheduler, Row(2), Row(3, 40))
    work.go.set()
    scheduler.close()
    assert work.alone[:2] == [True, False]
    assert sorted(n for batch in work.batches for n in batch) == [0, 1, 2, 3]


def test_abandoned_rows_are_not_run_and_told_why() -> None:
    work = Work(go=False)
    scheduler = work.scheduler()
    send(scheduler, Row(0))
    work.entered.acquire()
    left = Row(1)
    send(scheduler, left)
    send(scheduler, Row(2))
    left.abandoned = True
    work.go.set()
    scheduler.close()
    assert [n for batch in work.batches for n in batch] == [0, 2]
    assert isinstance(left.error, DeadlineExceeded)
    assert scheduler.waiting_tokens == 0


def test_a_cancelled_request_gives_its_room_back_at_once() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(queue=10)
    send(scheduler, Row(0))
    work.entered.acquire()
    flow = send(scheduler, Row(1), Row(2))
    with pytest.raises(Busy):
        send(scheduler, Row(3))
    scheduler.cancel(flow)
    assert scheduler.waiting_tokens == 0
    send(scheduler, Row(3))
    work.go.set()
    scheduler.close()
    assert [n for batch in work.batches for n in batch] == [0, 3]


def test_a_full_queue_takes_all_of_a_request_or_none() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(queue=10)
    send(scheduler, Row(0))
    work.entered.acquire()
    send(scheduler, Row(1), Row(2))
    with pytest.raises(Busy, match="NERVE_MAX_QUEUE_TOKENS") as refused:
        send(scheduler, Row(3, 1), Row(4, 9))
    assert refused.value.retry_after > 0
    send(scheduler, Row(5, 2))
    assert scheduler.waiting_tokens == 10
    work.go.set()
    scheduler.close()
    assert sorted(n for batch in work.batches for n in batch) == [0, 1, 2, 5]


def test_what_is_admitted_counts_before_it_is_queued() -> None:
    scheduler = Work().scheduler(queue=10)
    scheduler.admit(9, None)
    with pytest.raises(Busy):
        scheduler.admit(2, None)
    scheduler.withdraw(9)
    scheduler.admit(2, None)
    scheduler.withdraw(2)
    scheduler.close()


def test_a_request_that_would_come_too_late_is_refused_at_once() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(Cost(fixed=1e-6, per_token=1e-2), queue=10**6)
    send(scheduler, Row(0))
    work.entered.acquire()
    send(scheduler, *[Row(number, 100) for number in range(1, 11)])  # ten seconds of work
    with pytest.raises(Busy, match="allow more time") as refused:
        send(scheduler, *[Row(20 + number, 100) for number in range(10)], seconds=15.0)
    assert 5 < refused.value.retry_after < 11
    send(scheduler, *[Row(20 + number, 100) for number in range(10)], seconds=45.0)
    send(scheduler, Row(50, 10), seconds=2.0)  # its turn comes soon, however much waits
    work.go.set()
    scheduler.close()
    assert sum(map(len, work.batches)) == 22


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    scheduler = Work().scheduler(queue=10)
    rows = [Row(number, 8) for number in range(50)]
    send(scheduler, *rows, seconds=1e-9)
    scheduler.close()
    assert all(row.ended.is_set() for row in rows)


@pytest.mark.parametrize("raised", [InferenceFailed("out of memory"), ZeroDivisionError("no")])
def test_a_batch_that_fails_fails_its_own_rows_only(raised: Exception) -> None:
    work = Work(raised=lambda number: raised if number == 13 else None)
    scheduler = work.scheduler()
    bad, good = Row(13), Row(14)
    send(scheduler, bad)
    bad.ended.wait()
    send(scheduler, good)
    scheduler.close()
    assert isinstance(bad.error, InferenceFailed)
    assert good.error is None
    assert good.ended.is_set()
    assert [report.failed for report in work.reports] == [True, False]


def test_a_row_on_which_a_batch_fails_costs_its_batch_mates_nothing() -> None:
    work = Work(raised=lambda number: InferenceFailed("no") if number == 13 else None)
    scheduler = work.scheduler(DEAR)
    for _ in range(4):
        rows = [Row(number) for number in (11, 12, 13, 14)]
        send(scheduler, *rows)
        assert all(row.ended.wait(10) for row in rows)
        assert [row.number for row in rows if row.error] == [13]
    scheduler.close()
    assert work.batches[:5] == [[11, 12, 13, 14], [11], [12], [13], [14]]
    assert [report.failed for report in work.reports] == [True] * 4
    assert not scheduler.failing  # the session works


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
    scheduler = Work(raised=lambda number: raised[outcomes[number]]).scheduler()
    run_each(scheduler, range(len(outcomes)))
    assert scheduler.failing is failing
    scheduler.close()


def test_an_error_that_nobody_foresaw_counts_as_a_failure() -> None:
    scheduler = Work(raised=lambda number: ZeroDivisionError()).scheduler()
    run_each(scheduler, range(3))
    assert scheduler.failing
    scheduler.close()


def test_it_is_idle_where_nothing_waits_and_nothing_runs() -> None:
    work = Work(go=False)
    scheduler = work.scheduler()
    assert scheduler.idle
    send(scheduler, Row(0))
    assert not scheduler.idle
    work.entered.acquire()
    assert not scheduler.idle
    work.go.set()
    scheduler.close()
    assert scheduler.idle


def test_what_begins_is_called_first_on_each_thread() -> None:
    begun: list[str] = []

    def begin() -> None:
        begun.append(threading.current_thread().name)

    scheduler = Work().scheduler(runners=2, name="mine", begin=begin)
    run_each(scheduler, [0])
    scheduler.close()
    assert sorted(begun) == ["mine-0", "mine-1"]


def test_a_report_tells_what_was_run() -> None:
    work = Work()
    scheduler = work.scheduler(DEAR)
    send(scheduler, Row(0, 3), Row(1, 5))
    scheduler.close()
    (report,) = work.reports
    assert (report.rows, report.longest, report.tokens) == (2, 5, 8)
    assert len(report.waited) == 2
    assert report.tokenize_seconds == 1.0
    assert not report.failed


def test_closing_runs_what_is_queued_and_takes_no_more() -> None:
    work = Work(go=False)
    scheduler = work.scheduler(runners=2)
    row = Row(0)
    send(scheduler, row)
    assert scheduler.alive
    work.go.set()
    scheduler.close()
    assert row.ended.is_set()
    assert not scheduler.alive
    with pytest.raises(NotReady):
        send(scheduler, Row(1))
    with pytest.raises(NotReady):
        scheduler.submit(Flow(4), [Row(1)])


def test_many_threads_may_submit() -> None:
    work = Work()
    scheduler = work.scheduler(runners=2, queue=10**6)

    def submit(base: int) -> None:
        for number in range(base, base + 100):
            send(scheduler, Row(number))

    threads = [threading.Thread(target=submit, args=(base,)) for base in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scheduler.close()
    assert sorted(n for batch in work.batches for n in batch) == list(range(800))


def test_a_report_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def report(_: BatchReport) -> None:
        raise OSError("no space left")

    scheduler: Scheduler[Row] = Scheduler(Work(), COST, 1, 1000, 64, report)
    run_each(scheduler, range(3))
    assert scheduler.alive
    scheduler.close()
    assert "no space left" in caplog.text


def test_what_is_announced_is_queued_before_the_next_batch() -> None:
    class Late(Work):
        def prepare(self) -> Sequence[tuple[Flow, Sequence[Row]]]:
            return [(flow, [row]) for row in rows]

    work, rows, flow = Late(), [Row(1), Row(2), Row(3)], Flow(12)
    scheduler = work.scheduler(DEAR)
    scheduler.admit(12, None)
    scheduler.announce()
    for row in rows:
        assert row.ended.wait(10)
    assert work.batches == [[1, 2, 3]]
    scheduler.withdraw(12)
    scheduler.close()
    with pytest.raises(NotReady):
        scheduler.announce()


def test_what_is_announced_is_run_though_it_closes_meanwhile() -> None:
    class Slow(Work):
        def prepare(self) -> Sequence[tuple[Flow, Sequence[Row]]]:
            preparing.set()
            go_on.wait()
            return [(flow, [row])]

    preparing, go_on = threading.Event(), threading.Event()
    work, row, flow = Slow(), Row(1), Flow(4)
    scheduler = work.scheduler(runners=3)
    scheduler.admit(4, None)
    scheduler.announce()
    assert preparing.wait(10)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    assert not scheduler.idle
    go_on.set()
    assert row.ended.wait(10)
    closing.join()
    assert row.error is None
