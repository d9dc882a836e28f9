"""The dispatcher, told by hand what the threads around it would tell."""

import time

import pytest

from app.engine.batching.batches import Batch, Part, Ran
from app.engine.batching.dispatcher import READ_TOGETHER, Dispatcher
from app.engine.batching.requests import Request
from app.engine.batching.size_classes import CLASSES
from app.engine.runtimes.cost import Cost
from app.errors import Busy, NotReady, TooMuch
from tests.app.engine.batching.rows import lengths_of, request_of, rows_of, send

DEAR = Cost(fixed=1.0, per_token=1e-6)
"""A start so dear that all that waits goes together."""


def dispatcher_of(cost: Cost = DEAR, runners: int = 1, queue: int = 1_000, batch: int = 64) -> Dispatcher:
    return Dispatcher(cost, runners, queue, batch)


def ran(batch: Batch, failed: bool = False, broken: bool = False) -> Ran:
    lengths = lengths_of(batch.rows)
    now = time.perf_counter()
    return Ran(len(lengths), max(lengths), sum(lengths), batch.single, now - 1e-3, now, failed, broken)


def run(dispatcher: Dispatcher, broken: bool = False, failed: bool = False) -> None:
    """Take a batch of one row that was sent, and be done with it."""
    batch = dispatcher.next_batch()
    dispatcher.ran(ran(batch, failed or broken, broken))
    dispatcher.answered()


def test_what_waits_goes_together() -> None:
    dispatcher = dispatcher_of()
    for length in (4, 5, 6):
        send(dispatcher, length)
    assert dispatcher.waiting_tokens == 15
    assert sorted(lengths_of(dispatcher.next_batch().rows)) == [4, 5, 6]
    assert dispatcher.waiting_tokens == 0


def test_a_batch_is_single_where_nothing_else_runs_or_waits() -> None:
    dispatcher = dispatcher_of(Cost(), runners=2)
    send(dispatcher, 4)
    first = dispatcher.next_batch()
    send(dispatcher, 4)
    second = dispatcher.next_batch()
    assert (first.single, second.single) == (True, False)
    dispatcher.ran(ran(first))
    dispatcher.ran(ran(second))
    send(dispatcher, 4, 40)
    assert not dispatcher.next_batch().single  # the other row waits


def test_a_batch_is_not_single_where_something_is_unread() -> None:
    dispatcher = dispatcher_of()
    send(dispatcher, 4)
    dispatcher.send(request_of(dispatcher, 4), ["text"])
    assert not dispatcher.next_batch().single


def test_late_rows_are_not_run_and_are_given_back() -> None:
    dispatcher = dispatcher_of()
    late = send(dispatcher, 5, 6, seconds=-1.0, now=time.monotonic())
    send(dispatcher, 4)
    batch = dispatcher.next_batch()
    assert lengths_of(batch.rows) == [4]
    assert [row.text.request for row in batch.late] == [late]
    assert dispatcher.waiting_tokens == 0


def test_a_cancelled_request_gives_its_room_back_at_once() -> None:
    dispatcher = dispatcher_of(queue=CLASSES * 10)
    request = send(dispatcher, 4, 4)
    with pytest.raises(Busy):
        send(dispatcher, 4)
    assert request.result.cancel()
    assert dispatcher.waiting_tokens == 0
    send(dispatcher, 4)
    assert lengths_of(dispatcher.next_batch().rows) == [4]


def test_a_request_that_failed_gives_its_room_back_at_once() -> None:
    dispatcher = dispatcher_of()
    send(dispatcher, 4, 4).fail(NotReady("no"))
    assert dispatcher.waiting_tokens == 0
    assert dispatcher.idle


def test_a_full_queue_takes_all_of_a_request_or_none() -> None:
    dispatcher = dispatcher_of(queue=CLASSES * 10)
    send(dispatcher, 4, 4)
    with pytest.raises(Busy, match="NERVE_MAX_QUEUE_TOKENS") as refused:
        send(dispatcher, 3, 9)
    assert refused.value.retry_after > 0
    send(dispatcher, 2)
    assert dispatcher.waiting_tokens == 10


def test_what_is_admitted_counts_before_it_is_queued() -> None:
    dispatcher = dispatcher_of(queue=CLASSES * 10)
    request = request_of(dispatcher, 9)
    dispatcher.admit(request)
    assert not dispatcher.idle
    with pytest.raises(Busy):
        dispatcher.admit(request_of(dispatcher, 2))
    dispatcher.give_up(request)
    assert dispatcher.idle
    dispatcher.admit(request_of(dispatcher, 2))


def test_a_request_that_would_come_too_late_is_refused_at_once() -> None:
    dispatcher = dispatcher_of(Cost(fixed=1e-6, per_token=1e-2, padding=0.0), queue=10**6)
    now = time.monotonic()
    send(dispatcher, *[100] * 10)  # ten seconds of work
    with pytest.raises(Busy, match="allow more time") as refused:
        send(dispatcher, *[100] * 10, seconds=15.0, now=now)
    assert 5 < refused.value.retry_after < 11
    send(dispatcher, *[100] * 10, seconds=45.0, now=now)
    send(dispatcher, 10, seconds=2.0, now=now)  # its turn comes soon, however much waits


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    dispatcher = dispatcher_of(queue=CLASSES * 10)
    send(dispatcher, *[8] * 50, seconds=1e-3, now=time.monotonic())
    assert dispatcher.waiting_tokens == 400


def test_what_is_read_says_whether_a_request_can_be_done_in_time() -> None:
    dispatcher = dispatcher_of(Cost(fixed=1e-6, per_token=1e-2, padding=0.0), queue=10**6)
    send(dispatcher, 1_000)
    batch, started = dispatcher.next_batch(), time.perf_counter()
    dispatcher.ran(Ran(1, 1_000, 1_000, batch.single, started, started + 10.0, False, False))
    dispatcher.answered()
    now = time.monotonic()
    with pytest.raises(TooMuch):
        dispatcher.admit(request_of(dispatcher, 10, seconds=10.0, now=now), least=2_000)
    assert dispatcher.idle
    request = request_of(dispatcher, 100, 100, seconds=10.0, now=now)
    dispatcher.admit(request, least=200)
    dispatcher.add(Part(request, 0, (), 100), rows_of(request, *[1_000]))
    with pytest.raises(TooMuch, match="2000 sub-tokens"):
        dispatcher.add(Part(request, 1, (), 100), rows_of(request, *[1_000]))


def test_a_refused_caller_need_not_wait_longer_than_what_waits_may() -> None:
    dispatcher = dispatcher_of(Cost(fixed=1e-6, per_token=1e-2, padding=0.0), queue=CLASSES * 2_000)
    now = time.monotonic()
    send(dispatcher, *[100] * 20, seconds=16.0, now=now)  # twenty seconds of work
    with pytest.raises(Busy, match="NERVE_MAX_QUEUE_TOKENS") as refused:
        send(dispatcher, *[100] * 20)
    assert 15 < refused.value.retry_after <= 16


@pytest.mark.parametrize(
    ("outcomes", "failing"),
    [("--", False), ("--+--", False), ("---", True), ("+---+++", True), ("~~~~", False)],
)
def test_three_batches_that_break_in_a_row_are_noted_for_good(outcomes: str, failing: bool) -> None:
    """`-` breaks for every row, `~` fails for some, `+` succeeds."""
    dispatcher = dispatcher_of()
    for outcome in outcomes:
        send(dispatcher, 4)
        run(dispatcher, broken=outcome == "-", failed=outcome == "~")
    assert dispatcher.failing is failing


def test_it_is_idle_until_something_comes_and_once_all_is_answered() -> None:
    dispatcher = dispatcher_of()
    assert dispatcher.idle
    send(dispatcher, 4)
    assert not dispatcher.idle
    batch = dispatcher.next_batch()
    assert not dispatcher.idle
    dispatcher.ran(ran(batch))
    assert not dispatcher.idle
    dispatcher.answered()
    assert dispatcher.idle


def test_the_cost_follows_the_batches_that_share_the_machine() -> None:
    dispatcher = dispatcher_of(Cost(1e-3, 1e-4), runners=2)
    before = dispatcher.cost
    send(dispatcher, 4)
    run(dispatcher)
    assert dispatcher.cost == before  # it had all threads
    send(dispatcher, 40)
    single = dispatcher.next_batch()
    send(dispatcher, 4)
    run(dispatcher)
    assert dispatcher.cost != before
    dispatcher.ran(ran(single))


def test_unread_texts_are_taken_together_and_some_at_a_time() -> None:
    dispatcher = dispatcher_of(queue=10**6)
    requests = [request_of(dispatcher, 4) for _ in range(READ_TOGETHER + 3)]
    for request in requests:
        dispatcher.send(request, ["text"])
    first, second = dispatcher.wait(0), dispatcher.wait(0)
    assert first is not None
    assert second is not None
    assert [part.request for part in (*first, *second)] == requests
    assert len(first) == READ_TOGETHER
    batch = dispatcher.next_batch([(part, rows_of(part.request, 4)) for part in first])
    assert len(batch.rows) == 16  # as many as a batch may have
    assert not batch.single
    rest = dispatcher.next_batch([(part, []) for part in second])  # they had failed
    for one in (batch, rest):
        dispatcher.ran(ran(one))
        dispatcher.answered()
    assert len(rest.rows) == 16
    assert dispatcher.idle


def test_whoever_finds_it_idle_may_take_over_and_others_know() -> None:
    dispatcher = dispatcher_of(Cost(), runners=2)
    assert dispatcher.take_over()
    assert not dispatcher.idle
    assert not dispatcher.take_over()
    send(dispatcher, 4)
    batch = dispatcher.next_batch()
    assert not batch.single
    dispatcher.hand_back()
    assert not dispatcher.take_over()  # the batch runs
    dispatcher.ran(ran(batch))
    dispatcher.answered()
    assert dispatcher.take_over()


def test_closed_it_takes_nothing_more_and_has_run_what_waited() -> None:
    dispatcher = dispatcher_of()
    send(dispatcher, 4)
    dispatcher.close()
    for refused in (lambda: send(dispatcher, 4), lambda: dispatcher.send(request_of(dispatcher, 4), ["x"])):
        with pytest.raises(NotReady):
            refused()
    assert not dispatcher.take_over()
    assert dispatcher.wait(0) == []
    run(dispatcher)
    assert dispatcher.wait(0) is None


def test_what_a_runner_that_died_leaves_is_given_back() -> None:
    dispatcher = dispatcher_of()
    queued, unread, admitted = send(dispatcher, 4, 5), request_of(dispatcher, 4), request_of(dispatcher, 4)
    dispatcher.send(unread, ["text"])
    dispatcher.admit(admitted)
    dispatcher.ended()
    assert not dispatcher.alive
    with pytest.raises(NotReady):
        send(dispatcher, 4)
    with pytest.raises(NotReady):
        send_rows(dispatcher, admitted)
    assert set(dispatcher.left_over()) == {queued, unread, admitted}


def send_rows(dispatcher: Dispatcher, request: Request[int]) -> None:
    dispatcher.add(Part(request, 0, (), request.unread), rows_of(request, 4))
