"""Tuning: how a network runs best on the device at hand, found by running it.

The threads of one run wait for each other after every operator; those of parallel runs never do. So on
most machines two batches on one thread each end sooner than the same two, one after the other, on two
threads. A batch that comes alone is better off with all threads. So a network may have two sessions.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from app.engine.runtimes.cost import Cost
from app.engine.runtimes.runtime import Arrays, MakeBatch, Session, Settled
from app.errors import InferenceFailed

S = TypeVar("S", bound=Session)

_LEAST_TOKEN = 1 / 4
"""The least time that attention may leave of a short row's sub-token. Where measuring says less, it has
failed: the network is too small for the clock, or the machine too busy."""

_MOST_PAIR = 1 / 64
"""The most time that a pair of sub-tokens may take, as part of a sub-token's. Where measuring says more, it
has failed as well."""

_COST_LENGTH = 128
"""Sub-tokens of the long row with which a batch's cost is measured."""

_COST_PARTS = 4
"""Short rows that have as many sub-tokens together as the long one."""

_SINGLE_PROBE = (1, 32)
_CROWD_PROBE = (2, 32)
"""Rows and length of the batches that are run to compare sessions."""

_LARGEST = 65_536
"""Sub-tokens of the largest batch that is tried on a GPU."""

_TURNS = 5
"""Times that each way is run; the fastest counts, as other work on the machine only adds time."""

_BETTER = 1.15
"""More threads for a run must make it faster by this factor. In service a thread is often late, as it
makes or decodes batches or answers requests, and the other threads of its run wait for it."""

_GAIN = 1.05
"""A second session must make single batches faster by this factor, as it takes the network's memory
again."""

_GROWTH = 1.05
"""A larger batch must raise the sub-tokens a second by this factor."""

_FLAT_STEPS = 2
"""Larger batches in a row that gain less end the search; a single one is passed over, as times are
uneven."""


@dataclass(frozen=True)
class Tuned(Generic[S]):
    """The sessions that run a network best.

    Attributes:
        session: runs `runs` batches at a time.
        single: runs a batch that has the machine to itself; it may be `session`.
        runs: batches at a time.
        threads: threads of each of them.
    """

    session: S
    single: S
    runs: int
    threads: int


def tune(
    open_session: Callable[[int], S], threads: int, make_batch: MakeBatch, settled: Settled
) -> Tuned[S]:
    """Open the sessions that make the most of so many threads.

    Args:
        open_session: opens the network on so many threads a run.
        threads: threads of all runs together.
        settled: what is not to be measured.
    """
    if threads == 1:
        session = open_session(1)
        return Tuned(session, session, 1, 1)
    opened: dict[int, S] = {}

    def opened_with(each: int) -> S:
        if each not in opened:
            opened[each] = open_session(each)
        return opened[each]

    runs = min(settled.runs or threads // _best_share(opened_with, threads, make_batch), threads)
    each = threads // runs
    session = opened_with(each)
    if settled.own_single is False or each == threads:
        return Tuned(session, session, runs, each)
    wide = opened_with(threads)
    if settled.own_single is None:
        batch = make_batch(*_SINGLE_PROBE)
        narrow_time, wide_time = _least_seconds(
            partial(session.run, batch), partial(wide.run, batch), turns=_TURNS + 2
        )
        if narrow_time < _GAIN * wide_time:
            wide = session
    return Tuned(session, wide, runs, each)


def _best_share(opened_with: Callable[[int], S], threads: int, make_batch: MakeBatch) -> int:
    """The threads of a run with which the machine does most batches a second."""
    each, *wider = _shares(threads)
    batch = make_batch(*_CROWD_PROBE)
    with ThreadPoolExecutor(threads) as pool:
        for more in wider:
            narrow, wide = _least_seconds(
                *(_crowd(pool, opened_with(one), threads // one, batch) for one in (each, more))
            )
            if _BETTER * (threads // each) / narrow > (threads // more) / wide:
                break
            each = more
    return each


def measure_cost(session: Session, make_batch: MakeBatch) -> Cost:
    """What a batch costs, from the least time that some batches take.

    A long row beside short ones of as many sub-tokens shows what the pairs of attention cost. The same
    short rows with padding in them show what padding costs.
    """
    long = next(iter(make_batch(1, _COST_LENGTH).values())).shape[1]  # a network may take no more
    if long < 4 * _COST_PARTS:
        (seconds,) = _least_seconds(partial(session.run, make_batch(_COST_PARTS, long)))
        return Cost(1e-5, max(seconds / (_COST_PARTS * long), 1e-8))
    short = long // _COST_PARTS
    real = short // 4
    shapes = (1, short), (_COST_PARTS, short), (_COST_PARTS, short, real), (1, long)
    one, all_short, padded, all_long = _least_seconds(
        *(partial(session.run, make_batch(*shape)) for shape in shapes), turns=_TURNS - 2
    )
    return cost_of(short, real, one, all_short, padded, all_long)


def cost_of(short: int, real: int, one: float, all_short: float, padded: float, all_long: float) -> Cost:
    """What a batch costs, by the seconds that four of them took.

    Args:
        short: sub-tokens of a short row.
        real: sub-tokens of a short row that are not padding, in the batch with padding.
        one: seconds of one short row.
        all_short: seconds of `_COST_PARTS` short rows.
        padded: seconds of as many short rows of which only `real` sub-tokens each are not padding.
        all_long: seconds of one row that has the sub-tokens of all short rows.
    """
    rows, tokens = _COST_PARTS, _COST_PARTS * short
    whole = max(all_short / tokens, 1e-8)
    pair = max(0.0, all_long - all_short) / (tokens * (tokens - short))
    per_token = (all_short - one) / ((rows - 1) * short) - pair * short
    if per_token < _LEAST_TOKEN * whole:
        return Cost(max(one - whole * short, 1e-5), whole)
    fixed = max(one - per_token * short - pair * short * short, 1e-5)
    saved = (all_short - padded) / (per_token * rows * (short - real))
    return Cost(fixed, per_token, min(1.0, max(0.0, 1 - saved)), min(pair / per_token, _MOST_PAIR))


def token_budget(session: Session, make_batch: MakeBatch, length: int, runs: int) -> int:
    """The largest batch that is worth making, in sub-tokens with padding, while `runs` of it run at once.

    Args:
        length: sub-tokens of the longest row that the network takes.
    """

    def time_of(rows: int, longest: int) -> float:
        batch = make_batch(*session.shape(rows, longest))
        with ThreadPoolExecutor(runs) as pool:
            return _least_seconds(_crowd(pool, session, runs, batch))[0] / runs

    return find_token_budget(time_of, length, _LARGEST)


def find_token_budget(time_of: Callable[[int, int], float], length: int, limit: int) -> int:
    """The largest batch that is worth making, in sub-tokens, padding included.

    The rows double until twice in a row the sub-tokens a second grow by less than 5 %, memory ends, or
    the limit is reached. The result is the last size that still gained.

    Args:
        time_of: seconds that a batch of (rows, length) takes; raises InferenceFailed where memory ends.
            It should run as many batches at once as will be run.
        length: sub-tokens of a row. The longest that the network takes needs most memory, so that no
            other batch of the budget needs more.
        limit: sub-tokens that only a single row may exceed.

    Raises:
        InferenceFailed: not even one row can be run.
    """
    budget, best = length, length / time_of(1, length)
    rows, flat = 2, 0
    while rows * length <= limit and flat < _FLAT_STEPS:
        try:
            rate = rows * length / time_of(rows, length)
        except InferenceFailed:
            break
        if rate >= best * _GROWTH:
            budget, best, flat = rows * length, rate, 0
        else:
            flat += 1
        rows *= 2
    return budget


def _shares(threads: int) -> Iterator[int]:
    """Threads that a run may have, few first: the powers of two, and all."""
    each = 1
    while each < threads:
        yield each
        each *= 2
    yield threads


def _crowd(pool: ThreadPoolExecutor, session: Session, runs: int, batch: Arrays) -> Callable[[], object]:
    """A call that runs a batch so many times at once, each on a thread of its own, and waits for all."""
    return lambda: list(pool.map(session.run, [batch] * runs))


def _least_seconds(*calls: Callable[[], object], turns: int = _TURNS) -> list[float]:
    """The least seconds that each call takes. The calls take turns, so that they meet the same machine."""
    for call in calls:
        call()  # the first call makes threads and memory
    times = [[_seconds(call) for call in calls] for _ in range(turns)]
    return [min(of_one) for of_one in zip(*times, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
