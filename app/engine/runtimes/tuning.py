"""Tuning measures how a network runs fastest on this machine.

Threads that share a batch wait for each other after every operator; threads with a batch each never do. So
on most machines two batches on one thread each finish sooner than one after the other on two threads. But
a single batch is fastest with all threads. So a network may have two sessions.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Generic, TypeVar

from app.engine.runtimes.cost import Cost
from app.engine.runtimes.runtime import Arrays, MakeBatch, Session, Settled
from app.errors import InferenceFailed

S = TypeVar("S", bound=Session)

_LEAST_TOKEN = 1 / 4
"""Least part of a sub-token's time in a short row that is not attention's. A measurement below it has
failed: the network is too small for the clock, or the machine too busy."""

_MOST_PAIR = 1 / 64
"""Most time that attention takes for a pair of sub-tokens, as part of a sub-token's time. More than this is
a failed measurement and counts as this."""

_COST_LENGTH = 128
"""Sub-tokens of the long row that measures a batch's cost."""

_COST_PARTS = 4
"""Number of short rows that together have as many sub-tokens as the long one."""

_SINGLE_PROBE = (1, 32)
_CROWD_PROBE = (2, 32)
"""Rows and length of the batches that compare sessions: by one batch alone, and by several at once."""

_LARGEST = 65_536
"""Sub-tokens of the largest batch that is tried on a GPU."""

_TURNS = 5
"""Times that each call is measured. The least time counts, because other work only adds time."""

_BETTER = 1.15
"""Factor by which more threads for each batch must raise the batches a second. A server's threads are often
late, because they also collate, decode and answer requests, and a batch waits for its last thread."""

_GAIN = 1.05
"""Factor by which a second session must speed up a single batch, because it takes the network's memory
again."""

_CLEAR_GAIN = 1.2
"""Factor that ends the measurement at once; a smaller one may be an accident of a few turns."""

_ROUNDS, _PAUSE = 5, 0.05
"""Rounds of turns in which a gain may show, and seconds between two. Where other work delays one of two
threads for some turns, both sessions look alike: one round missed the gain in 4 of 24 tries."""

_GROWTH = 1.05
"""Factor by which a larger batch must raise the sub-tokens a second to count as a gain."""

_FLAT_STEPS = 2
"""Sizes in a row without a gain that end the search; one alone may be an uneven measurement."""


@dataclass(frozen=True)
class Tuned(Generic[S]):
    """Holds the sessions that run a network fastest.

    Attributes:
        session: runs `runs` batches at a time.
        single: runs a batch that has the machine to itself; it may be the same as `session`.
        runs: batches at a time.
        threads: threads of each batch.
    """

    session: S
    single: S
    runs: int
    threads: int


def tune(
    open_session: Callable[[int], S], threads: int, make_batch: MakeBatch, settled: Settled
) -> Tuned[S]:
    """Open the sessions that run a network fastest with a number of threads.

    Args:
        open_session: opens the network with a number of threads for each batch.
        threads: total threads of all batches that run at a time.
        make_batch: makes batches to measure with.
        settled: what is decided already and not measured.
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
    if settled.own_single is None and not _gains(session, wide, make_batch(*_SINGLE_PROBE)):
        wide = session
    return Tuned(session, wide, runs, each)


def _gains(session: Session, wide: Session, batch: Arrays) -> bool:
    """Say whether a wider session runs a single batch so much faster that it is worth its memory."""
    narrow_least = wide_least = inf
    for _ in range(_ROUNDS):
        narrow_time, wide_time = _least_seconds(partial(session.run, batch), partial(wide.run, batch))
        narrow_least, wide_least = min(narrow_least, narrow_time), min(wide_least, wide_time)
        if narrow_least >= _CLEAR_GAIN * wide_least:
            return True
        time.sleep(_PAUSE)
    return narrow_least >= _GAIN * wide_least


def _best_share(opened_with: Callable[[int], S], threads: int, make_batch: MakeBatch) -> int:
    """Return the threads of each batch with which the machine runs most batches a second."""
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
    """Measure the cost of batches.

    One long row and short rows with as many sub-tokens differ by the cost of attention's pairs. The short
    rows with and without padding differ by the cost of padding.
    """
    long = next(iter(make_batch(1, _COST_LENGTH).values())).shape[1]  # less if the network takes less
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
    """Compute the cost of batches from the seconds that four of them took.

    Args:
        short: sub-tokens of a short row.
        real: sub-tokens of a short row that are not padding, in the batch with padding.
        one: seconds of one short row.
        all_short: seconds of `_COST_PARTS` short rows.
        padded: seconds of `_COST_PARTS` short rows that have `real` sub-tokens each and padding after them.
        all_long: seconds of one row with as many sub-tokens as all short rows.
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
    """Measure the largest useful batch, in sub-tokens with padding, while `runs` such batches run at once.

    Args:
        length: sub-tokens of the longest row that the network takes.
    """

    def time_of(rows: int, longest: int) -> float:
        batch = make_batch(*session.shape(rows, longest))
        with ThreadPoolExecutor(runs) as pool:
            return _least_seconds(_crowd(pool, session, runs, batch))[0] / runs

    return find_token_budget(time_of, length, _LARGEST)


def find_token_budget(time_of: Callable[[int, int], float], length: int, limit: int) -> int:
    """Find the largest useful batch, in sub-tokens with padding.

    Rows are doubled until the sub-tokens a second grow by less than 5 % twice in a row, memory runs out, or
    `limit` is reached. The result is the last size that gained more.

    Args:
        time_of: measures the seconds of a batch of (rows, length), while as many batches run at once as in
            service; raises InferenceFailed when memory runs out.
        length: sub-tokens of the longest row that the network takes, whose batches need most memory.
        limit: most sub-tokens of a batch, unless it has a single row.

    Raises:
        InferenceFailed: the network fails on a single row.
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
    """Yield the numbers of threads that a batch may have, ascending: powers of two, then all threads."""
    each = 1
    while each < threads:
        yield each
        each *= 2
    yield threads


def _crowd(pool: ThreadPoolExecutor, session: Session, runs: int, batch: Arrays) -> Callable[[], object]:
    """Return a call that runs a batch `runs` times at once, each on another thread, and waits for all."""
    return lambda: list(pool.map(session.run, [batch] * runs))


def _least_seconds(*calls: Callable[[], object], turns: int = _TURNS) -> list[float]:
    """Return the least seconds of each call. Calls alternate, so that other work slows them alike."""
    for call in calls:
        call()  # the first call is slow, because it makes threads and memory
    times = [[_seconds(call) for call in calls] for _ in range(turns)]
    return [min(of_one) for of_one in zip(*times, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
