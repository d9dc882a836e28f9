"""Runners on real threads and a real tokenizer; the network is a function that notes what it is given.

A text of n words "x" has n sub-tokens and n decisions, and is answered with that number.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from app.engine.batching.dispatcher import Dispatcher
from app.engine.batching.execution import Execution
from app.engine.batching.reading import ReadingThread
from app.engine.batching.report import BatchReport
from app.engine.batching.requests import Request, Row, Text
from app.engine.batching.runner import Runners
from app.engine.batching.watchdog import Watchdog
from app.engine.runtimes.cost import Cost
from app.engine.text.reader import Reader
from app.engine.text.tokenizer import Tokenizer
from app.errors import DeadlineExceeded, NotReady
from tests.servers import until
from tests.tiny import tiny_tokenizer

DEAR = Cost(fixed=1.0, per_token=1e-6)
"""A start so dear that all that waits goes together."""


class Engine:
    """A dispatcher with its runners, whose network waits for `go`."""

    def __init__(
        self,
        cost: Cost = DEAR,
        runners: int = 1,
        go: bool = True,
        begin: Callable[[], None] = lambda: None,
    ):
        self.batches: list[list[int]] = []
        self.single: list[bool] = []
        self.reports: list[BatchReport] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        if go:
            self.go.set()
        self.dispatcher = Dispatcher(cost, runners, 10**6, 64)
        self.reader = Reader(Tokenizer(tiny_tokenizer()), 64, 8)
        watchdog = Watchdog(self.dispatcher, lambda thread: None)
        execution = Execution(self._compute, 1, self.dispatcher, self.reports.append, watchdog)
        self.thread = ReadingThread(self.reader, self.dispatcher, "texts", begin)
        self.runners = Runners(self.dispatcher, self.reader, execution, runners, "mine", begin)

    def send(self, *words: int, seconds: float | None = None) -> "Request[int]":
        """Send a request of texts of so many words."""
        texts = ["x " * count for count in words]
        deadline = None if seconds is None else time.monotonic() + seconds
        tokens = self.reader.expected(texts)
        request = Request(self._decoded, deadline, len(texts), tokens, self.dispatcher.cancel)
        if len(texts) == 1:
            self.dispatcher.send(request, texts)
        else:
            self.dispatcher.admit(request)
            self.thread.send(request, texts)
        return request

    def close(self) -> None:
        self.go.set()
        self.thread.close()
        self.runners.close()

    def _compute(self, rows: Sequence[Row], single: bool) -> npt.NDArray[np.float32]:
        self.batches.append([row.length - 2 for row in rows])
        self.single.append(single)
        self.entered.release()
        self.go.wait()
        return np.zeros((len(rows), max(row.length for row in rows), 2), np.float32)

    @staticmethod
    def _decoded(texts: Sequence[Text]) -> list[int]:
        return [len(text.encoded.firsts) for text in texts]


@pytest.fixture
def make() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*arguments: Any, **options: Any) -> Engine:
        made.append(Engine(*arguments, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


Make = Callable[..., Engine]


def test_texts_that_come_while_a_batch_runs_go_together(make: Make) -> None:
    engine = make(go=False)
    first = engine.send(1)
    engine.entered.acquire()
    others = [engine.send(words) for words in (2, 3, 4)]
    engine.go.set()
    assert [one.result.result(10) for one in (first, *others)] == [[1], [2], [3], [4]]
    assert [sorted(batch) for batch in engine.batches] == [[1], [2, 3, 4]]


def test_runners_run_at_a_time(make: Make) -> None:
    engine = make(runners=3, go=False)
    for words in (1, 2, 3):
        engine.send(words)
        engine.entered.acquire()
    last = engine.send(4)
    assert engine.batches == [[1], [2], [3]]
    assert engine.single == [True, False, False]
    engine.go.set()
    last.result.result(10)
    assert engine.batches == [[1], [2], [3], [4]]


def test_a_large_request_is_answered_in_order(make: Make) -> None:
    engine = make(runners=2)
    words = [number % 9 for number in range(200)]
    assert engine.send(*words).result.result(10) == words


def test_late_requests_are_not_run_and_told_why(make: Make) -> None:
    engine = make(go=False)
    engine.send(1)
    engine.entered.acquire()
    late = engine.send(2, seconds=0.05)  # a runner is needed to read it
    time.sleep(0.1)
    engine.go.set()
    with pytest.raises(DeadlineExceeded):
        late.result.result(10)
    until(lambda: engine.dispatcher.idle)
    assert engine.batches == [[1]]


def test_what_begins_is_called_first_on_each_thread(make: Make) -> None:
    begun: list[str] = []
    engine = make(runners=2, begin=lambda: begun.append(threading.current_thread().name))
    engine.send(1, 2).result.result(10)
    until(lambda: len(begun) == 3)
    assert sorted(begun) == ["mine-0", "mine-1", "texts_0"]


def test_a_report_tells_what_was_read_beside_what_was_run(make: Make) -> None:
    engine = make()
    engine.send(3, 5).result.result(10)
    until(lambda: len(engine.reports) == 1)
    (report,) = engine.reports
    assert (report.rows, report.longest, report.tokens) == (2, 7, 12)
    assert report.tokenize_seconds > 0


def test_closing_runs_what_waits_and_takes_no_more(make: Make) -> None:
    engine = make(runners=2, go=False)
    engine.send(1)
    engine.entered.acquire()
    waiting = [engine.send(words) for words in (2, 3)] + [engine.send(4, 5, 6)]
    engine.close()
    assert [one.result.result(0) for one in waiting] == [[2], [3], [4, 5, 6]]
    assert not engine.dispatcher.alive
    for refused in ([1], [1, 2]):
        with pytest.raises(NotReady):
            engine.send(*refused)


def test_a_runner_that_dies_takes_nothing_more_and_closing_fails_what_waits(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def begin() -> None:
        if threading.current_thread().name.startswith("mine"):
            go.wait()
            raise OSError("no")

    go = threading.Event()
    engine = make(begin=begin)
    waiting = engine.send(2)
    go.set()
    until(lambda: not engine.dispatcher.alive)
    with pytest.raises(NotReady):
        engine.send(1)
    engine.close()
    with pytest.raises(NotReady):
        waiting.result.result(0)


def test_many_threads_may_send(make: Make) -> None:
    engine = make(runners=2)
    requests: list[Request[int]] = []

    def send() -> None:
        requests.extend([engine.send(words % 7 + 1) for words in range(100)])

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.result.result(10)[0] for one in requests) == 8 * sum(n % 7 + 1 for n in range(100))
    until(lambda: engine.dispatcher.idle)


def test_a_request_is_run_here_where_nothing_else_is_on_its_way(make: Make) -> None:
    engine = make(runners=2)
    request = request_for(engine)
    assert engine.runners.run_here(request, ["x x x"])
    assert request.result.result(0) == [3]
    assert engine.single == [True]
    assert [report.rows for report in engine.reports] == [1]
    assert engine.dispatcher.idle


def test_a_request_is_not_run_here_while_another_is(make: Make) -> None:
    engine = make(go=False)
    engine.send(1)
    engine.entered.acquire()
    assert not engine.runners.run_here(request_for(engine), ["x"])


def test_closing_waits_for_what_is_run_here(make: Make) -> None:
    engine = make(go=False)
    request = request_for(engine)
    here = threading.Thread(target=engine.runners.run_here, args=(request, ["x x"]))
    here.start()
    engine.entered.acquire()
    closing = threading.Thread(target=engine.runners.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    engine.go.set()
    closing.join(10)
    assert request.result.result(0) == [2]


def request_for(engine: Engine) -> "Request[int]":
    return Request(engine._decoded, None, 1, 3, engine.dispatcher.cancel)
