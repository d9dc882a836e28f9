"""One batch from its rows to its answers, without a thread; the network is a function.

A row of n sub-tokens is answered with the sum of its logits, which are n each.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from app.engine.batching.batches import Part
from app.engine.batching.dispatcher import Dispatcher
from app.engine.batching.execution import Execution
from app.engine.batching.report import BatchReport
from app.engine.batching.requests import Request, Row, Text
from app.engine.batching.watchdog import Watchdog
from app.engine.runtimes.cost import Cost
from app.errors import DeadlineExceeded, InferenceFailed
from tests.app.engine.batching.rows import request_of, rows_of

DEAR = Cost(fixed=1.0, per_token=1e-6)
"""A start so dear that all that waits goes together."""


class Network:
    """Fails on rows of some lengths, and notes what it is given."""

    def __init__(self, failures: dict[int, BaseException] | None = None):
        self.failures = failures or {}
        self.batches: list[tuple[list[int], bool]] = []

    def compute(self, rows: Sequence[Row], single: bool) -> npt.NDArray[np.float32]:
        lengths = [row.length for row in rows]
        self.batches.append((lengths, single))
        for length in lengths:
            if length in self.failures:
                raise self.failures[length]
        logits = np.zeros((len(rows) + 1, max(lengths), 1), np.float32)  # a runtime may add rows
        for row, length in enumerate(lengths):
            logits[row] = length
        return logits


def sums(texts: Sequence[Text]) -> list[int]:
    return [0 if text.logits is None else int(text.logits.sum()) for text in texts]


class Batch:
    """A batch of a row of each length, each of a request of its own, taken from a dispatcher."""

    def __init__(
        self,
        *lengths: int,
        network: Network | None = None,
        decode: Callable[[Sequence[Text]], list[int]] = sums,
        report: Callable[[BatchReport], None] | None = None,
    ):
        self.network = network or Network()
        self.reports: list[BatchReport] = []
        self.dispatcher = Dispatcher(DEAR, 1, 1_000, 1_000)
        watchdog = Watchdog(self.dispatcher, lambda thread: None)
        report = report or self.reports.append
        self.execution = Execution(self.network.compute, 1, self.dispatcher, report, watchdog)
        self.requests: dict[int, Request[int]] = {}
        for length in lengths:
            request = Request(decode, None, 1, length, self.dispatcher.cancel)
            self.dispatcher.admit(request)
            self.dispatcher.add(Part(request, 0, (), length), rows_of(request, length))
            self.requests[length] = request

    def run(self) -> None:
        batch = self.dispatcher.next_batch()
        self.execution.execute(batch.rows, batch.single)

    @property
    def answers(self) -> dict[int, object]:
        """What each request came to: its answers, or the kind of its error."""
        found: dict[int, object] = {}
        for length, request in self.requests.items():
            assert request.result.done()
            error = request.result.exception()
            found[length] = type(error) if error else request.result.result()
        return found


def test_each_row_is_answered_with_its_own_logits() -> None:
    batch = Batch(3, 5, 7)
    batch.run()
    assert batch.answers == {length: [(length - 2) * length] for length in (3, 5, 7)}
    assert batch.network.batches == [([3, 5, 7], True)]
    assert batch.dispatcher.idle


def test_a_report_tells_what_was_run() -> None:
    batch = Batch(5, 7)
    batch.run()
    (report,) = batch.reports
    assert (report.rows, report.longest, report.tokens, report.failed) == (2, 7, 12, False)
    assert len(report.waited) == 2
    assert report.seconds > 0
    assert report.decode_seconds > 0


FAILURES = [InferenceFailed("out of memory"), ZeroDivisionError("no"), SystemExit()]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_row_on_which_a_batch_fails_costs_its_batch_mates_nothing(failure: BaseException) -> None:
    batch = Batch(3, 5, 7, network=Network({5: failure}))
    batch.run()
    assert batch.answers == {3: [3], 5: InferenceFailed, 7: [35]}
    # Run again, no row has the whole machine: the others wait for theirs.
    assert batch.network.batches == [([3, 5, 7], True), ([3], False), ([5], False), ([7], False)]
    assert [report.failed for report in batch.reports] == [True]


def test_a_row_by_itself_is_not_run_twice() -> None:
    batch = Batch(5, network=Network({5: InferenceFailed("no")}))
    batch.run()
    assert batch.answers == {5: InferenceFailed}
    assert len(batch.network.batches) == 1


def test_what_no_row_is_to_blame_for_fails_all_of_them_at_once() -> None:
    batch = Batch(3, 5, network=Network({5: DeadlineExceeded("too late")}))
    batch.run()
    assert batch.answers == {3: DeadlineExceeded, 5: DeadlineExceeded}
    assert len(batch.network.batches) == 1


def test_whoever_has_given_up_is_not_run_again() -> None:
    batch = Batch(3, 5, 7, network=Network({5: InferenceFailed("no")}))
    taken = batch.dispatcher.next_batch()
    given_up = batch.requests.pop(7)
    assert given_up.result.cancel()
    batch.execution.execute(taken.rows, taken.single)
    assert batch.answers == {3: [3], 5: InferenceFailed}
    assert [lengths for lengths, _ in batch.network.batches] == [[3, 5, 7], [3], [5]]


@pytest.mark.parametrize(("sound", "failing"), [((), True), ((7,), False)])
def test_a_session_is_broken_where_every_row_fails_in_it(sound: tuple[int, ...], failing: bool) -> None:
    network = Network(dict.fromkeys((3, 5), InferenceFailed("no")))
    batch = Batch(network=network)
    for _ in range(3):
        rows = [
            row
            for length in (3, 5, *sound)
            for row in rows_of(request_of(batch.dispatcher, length), length)
        ]
        batch.dispatcher.start()
        batch.execution.execute(rows, single=True)
    assert batch.dispatcher.failing is failing


def test_a_decoder_that_panics_fails_the_requests_and_not_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decode(texts: Sequence[Text]) -> list[int]:
        raise SystemExit("panic")  # as a Rust panic, it is no Exception

    batch = Batch(3, 5, decode=decode)
    batch.run()
    assert batch.answers == {3: InferenceFailed, 5: InferenceFailed}
    assert "the answers to a batch failed" in caplog.text
    assert not batch.dispatcher.failing


def test_a_report_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def report(_: BatchReport) -> None:
        raise OSError("no space left")

    batch = Batch(3, report=report)
    batch.run()
    assert batch.answers == {3: [3]}
    assert "no space left" in caplog.text
    assert batch.dispatcher.idle
