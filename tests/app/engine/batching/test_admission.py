"""Admission beside the real queue and rate, on a machine of our own that has a clock of its own."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.admission import Admission
from app.engine.batching.choice import overtaking
from app.engine.batching.queue import Queue
from app.engine.batching.rate import Rate
from app.engine.batching.size_classes import CLASSES, Flow, size_class_of
from app.engine.runtimes.cost import Cost
from app.errors import FAULTS, Busy, TooMuch

COST = Cost(fixed=2e-3, per_token=1.15e-4)
"""Of a batch, as two cores of a server take it."""

BATCH, RUNNERS = 8_192, 2
SIZE, SECONDS_LEFT = 64, 2.0
"""Texts of a request, and what it may take."""


def overtaken(size_class: int) -> int:
    """Sub-tokens that may overtake a row on that machine."""
    return overtaking(COST, BATCH, size_class)


@dataclass(eq=False)
class Request:
    """One that was accepted."""

    came: float
    texts: int
    left: int
    deadline: float
    done: float | None = None


@dataclass(eq=False)
class Row:
    length: int
    request: Request

    @property
    def deadline(self) -> float:
        return self.request.deadline


@dataclass
class Machine:
    """Runs what it is sent.

    Args:
        slow: whether it takes half as long again for half a second, now and then.
        deadline: seconds that a request may take.
    """

    seed: int
    slow: bool
    deadline: float = SECONDS_LEFT
    now: float = 0.0
    accepted: list[Request] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._queue: Queue[Row] = Queue()
        self._rate = Rate(COST.of(1, 128, 128) / 128 / RUNNERS)
        self._admission = Admission(self._queue, self._rate, 1_000_000, overtaken)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._idle = RUNNERS
        self._slow_until = self._slow_from = 0.0

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self, seconds: float) -> None:
        while self._events and self._events[0][0] < seconds:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def send(self, texts: int, answered: Callable[[], None] = lambda: None) -> None:
        """A request comes."""
        lengths = [min(max(int(self._random.gauss(31, 10)), 5), 80) for _ in range(texts)]
        expected = int(sum(lengths) * self._random.uniform(0.95, 1.05))
        try:
            self._admission.admit(expected, self.deadline)
        except Busy as busy:
            self.refused.append(busy.retry_after)
            return
        self._admission.queued(size_class_of(expected), expected)
        request = Request(self.now, texts, texts, self.now + self.deadline)
        self.accepted.append(request)
        if self._idle == RUNNERS and not self._queue:
            self._rate.begin(self.now)
        self._queue.add(Flow(expected), [Row(length, request) for length in lengths])
        self._start(answered)

    def _start(self, answered: Callable[[], None]) -> None:
        while self._idle and self._queue:
            batch, _ = self._queue.next_batch(COST, BATCH, RUNNERS, self.now)
            if not batch:
                continue
            self._idle -= 1
            lengths = [row.length for row in batch]
            seconds = COST.of(len(batch), max(lengths), sum(lengths))
            seconds *= self._slowness() * self._random.uniform(0.9, 1.1)
            self.at(self.now + seconds, lambda batch=batch: self._end(batch, answered))  # type: ignore[misc]

    def _end(self, batch: list[Row], answered: Callable[[], None]) -> None:
        self._idle += 1
        self._rate.done(sum(row.length for row in batch), self.now)
        for row in batch:
            row.request.left -= 1
            if not row.request.left:
                row.request.done = self.now
                if row.request.texts > 1:
                    answered()
        self._start(answered)

    def _slowness(self) -> float:
        while self.slow and self.now >= self._slow_until:
            self._slow_from = self._slow_until + self._random.expovariate(1 / 1.5)
            self._slow_until = self._slow_from + 0.5
        return 1 / 0.7 if self.slow and self.now >= self._slow_from else 1.0

    def texts_a_second(self, start: float, end: float) -> float:
        """Those that were answered in time."""
        done = Counter[bool]()
        for one in self.accepted:
            in_time = one.done is not None and one.done <= one.deadline
            done[in_time and start <= (one.done or 0) < end] += one.texts
        return done[True] / (end - start)


def capacity(seed: int, slow: bool, seconds: float) -> float:
    """Texts a second of four clients that send their next request when their last is answered."""
    machine = Machine(seed, slow, deadline=1e6)

    def again() -> None:
        machine.send(SIZE, again)

    for _ in range(4):
        machine.at(0.0, again)
    machine.run(seconds)
    return machine.texts_a_second(2.0, seconds)


def arrivals(random: Random, rate: float, seconds: float) -> Iterator[float]:
    """At random."""
    now = 0.0
    while (now := now + random.expovariate(rate)) < seconds:
        yield now


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("times", [3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_a_flood_takes_no_goodput_and_makes_nobody_late(seed: int, times: int, slow: bool) -> None:
    """Sentences now and then are among it, and none of them is refused."""
    seconds = 20.0
    most = capacity(seed, slow, seconds)
    machine, random = Machine(seed, slow), Random(seed)
    for when in arrivals(random, times * most / SIZE, seconds):
        machine.at(when, lambda: machine.send(SIZE))
    sentences = [*arrivals(random, 20.0, seconds)]
    for when in sentences:
        machine.at(when, lambda: machine.send(1))
    machine.run(seconds + 10)
    assert all(one.done is not None and one.done <= one.deadline for one in machine.accepted)
    assert machine.texts_a_second(2.0, seconds) >= 0.95 * most
    assert max(one.done or 0.0 for one in machine.accepted) < seconds + 1, "normal again within a second"
    assert sum(one.texts == 1 for one in machine.accepted) == len(sentences)
    assert 0 < max(machine.refused) < 1


@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=30),
    size=st.integers(1, 100),
    seconds_left=st.floats(1e-3, 20.0),
    room=st.integers(100, 100_000),
)
def test_who_comes_again_when_told_is_admitted(
    sizes: list[int], size: int, seconds_left: float, room: int
) -> None:
    """The queue is a request's own line here: what goes there meanwhile is known."""
    queue: Queue[Row] = Queue()
    rate = Rate(1e-4)
    admission = Admission(queue, rate, CLASSES * room, overtaken)
    request = Request(0.0, 1, 1, 1e9)
    for one in sizes:
        queue.add(Flow(3_000), [Row(30, request) for _ in range(one)])
    tokens = 300 + 30 * size
    try:
        admission.admit(tokens, seconds_left)
    except Busy as busy:
        refused = busy
    else:
        return
    must_run = refused.retry_after / rate.seconds_per_token
    assert must_run <= queue.tokens + 1
    while must_run > 0.5:  # sub-tokens are whole, seconds are not
        batch, _ = queue.next_batch(COST, 30, 1, 0.0)
        must_run -= sum(row.length for row in batch)
    admission.admit(tokens, seconds_left)


def test_a_refusal_says_what_may_be_done() -> None:
    queue: Queue[Row] = Queue()
    admission = Admission(queue, Rate(1e-2), CLASSES * 1_500, lambda size_class: 0)
    request = Request(0.0, 1, 1, 1e9)
    queue.add(Flow(1_000), [Row(100, request) for _ in range(10)])
    with pytest.raises(Busy, match="allow more time") as late:
        admission.admit(400, 10.0)
    assert late.value.retry_after == pytest.approx(9.0)  # 100 + 400 sub-tokens take half of the time
    with pytest.raises(Busy, match="NERVE_MAX_QUEUE_TOKENS") as full:
        admission.admit(900, inf)
    assert full.value.retry_after == pytest.approx(4.0)
    admission.admit(500, inf)
    with pytest.raises(Busy):  # what was admitted counts before it is queued
        admission.admit(300, inf)
    admission.queued(1, 300)
    admission.admit(300, inf)


@given(
    coming=st.lists(st.integers(1, 3_000_000), max_size=40),
    waiting=st.lists(st.tuples(st.integers(1, 3_000_000), st.booleans()), max_size=40),
    size=st.integers(1, 3_000_000),
)
def test_no_request_takes_the_room_of_another_size_class(
    coming: list[int], waiting: list[tuple[int, bool]], size: int
) -> None:
    """Whatever came before, and whether it is read or not."""
    queue: Queue[Row] = Queue()
    rate = Rate(1e-4)
    room = 250_000
    admission = Admission(queue, rate, CLASSES * room, overtaken)
    held: Counter[int] = Counter()
    for tokens, read in [*((tokens, False) for tokens in coming), *waiting]:
        number = size_class_of(tokens)
        if held[number] and held[number] + tokens > room:
            with pytest.raises(Busy) as refused:
                admission.admit(tokens, inf)
            assert 0 < refused.value.retry_after <= (held.total() + 1) * rate.seconds_per_token
            continue
        admission.admit(tokens, inf)
        held[number] += tokens
        if read:
            queue.add(Flow(tokens), [Row(tokens, Request(0.0, 1, 1, 1e9))])
            admission.queued(number, tokens)
    if not held[size_class_of(size)]:
        admission.admit(size, inf)


def test_an_empty_size_class_admits_what_can_be_done_in_time() -> None:
    queue: Queue[Row] = Queue()
    admission = Admission(queue, Rate(1e-3), CLASSES * 1_000, lambda size_class: 0)
    queue.add(Flow(100), [Row(100, Request(0.0, 1, 1, 1e9))])
    admission.admit(9_000, 10.0)  # beside one sentence
    with pytest.raises(Busy):  # but now others of its size wait
        admission.admit(9_000, 10.0)


def test_what_cannot_be_done_in_time_by_itself_is_refused_for_good() -> None:
    rate = Rate(1e-3)
    admission = Admission(Queue[Row](), rate, 1_000, lambda size_class: 0)
    admission.check_possible(10**9, 10.0)  # nothing has run, and warm-up may have been slow
    rate.begin(0.0)
    rate.done(100_000, 100.0)
    admission.check_possible(10_000, inf)
    admission.check_possible(10**9, -1.0)  # it is late already
    admission.check_possible(13_000, 10.0)  # the machine may become a little faster
    with pytest.raises(TooMuch, match=r"20000 sub-tokens .* 20.0 s here, .* may take 10.0 s") as raised:
        admission.check_possible(20_000, 10.0)
    assert raised.value.kind not in FAULTS, "no canary is to blame"
    rate.done(100_000, 150.0)  # it was faster once
    rate.done(100_000, 1_000.0)
    admission.check_possible(20_000, 10.0)
