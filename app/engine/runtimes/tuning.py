"""Tuning: how a network runs best on the CPUs at hand, found by running it.

The threads of one run wait for each other after every operator, those of parallel runs never do: on
most machines two batches on a thread each are done sooner than both one after the other on two threads.
A batch that comes alone is better off with all threads. So there may be two sessions of one network.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.batching.cost import Cost
from app.engine.runtimes.batch_shapes import find_token_budget
from app.engine.runtimes.session import Arrays, Session
from app.manifest import Feature, Manifest

S = TypeVar("S", bound=Session)


class MakeBatch(Protocol):
    """Makes a batch of this shape, whatever is in it."""

    def __call__(self, rows: int, length: int, real: int | None = None) -> Arrays:
        """A batch whose rows have `real` sub-tokens each, and padding after them; all real by default."""
        ...


_LEAST, _MOST_PAIR = 1 / 4, 1 / 64
"""A sub-token takes this part at least of what short rows take for one with all else, and a pair this
part of a sub-token at most. What is beyond was not measured but missed."""

_COST_LENGTH = 128
_COST_PARTS = 4
"""A batch's cost is measured with a long row, with as much in so many short ones, and with one of these."""

_LONE_PROBE = (1, 32)
_CROWD_PROBE = (2, 32)
"""Rows and length of the batches that are run to measure."""

_LARGEST = 65_536
"""Sub-tokens of the largest batch that is tried on a GPU."""

_TURNS = 5
_BETTER = 1.15
"""More threads a run must do so many times as much: in service a thread is often late, as it makes or
decodes batches or answers requests, and those of its run wait for it."""

_GAIN = 1.05
"""A second session must make lone batches so many times as fast: it takes the network's memory again."""


@dataclass(frozen=True)
class Plan:
    """What is settled of how a network runs.

    Attributes:
        runs: batches at a time; 0 is to be measured.
        lone: whether a batch that comes alone gets a session of all threads; None is to be measured.
    """

    runs: int = 0
    lone: bool | None = None


@dataclass(frozen=True)
class Sessions(Generic[S]):
    """A network, ready to run.

    Attributes:
        session: what runs `runs` batches at a time.
        runs: batches at a time.
        lone: what runs a batch that has the machine to itself; it may be `session`.
    """

    session: S
    runs: int
    lone: S

    @property
    def plan(self) -> Plan:
        """For a network that is to run as this one does."""
        return Plan(self.runs, self.lone is not self.session)


def tune(
    open_session: Callable[[int], S], threads: int, make_batch: MakeBatch, plan: Plan = Plan()
) -> Sessions[S]:
    """Open the sessions that make the most of so many threads.

    Args:
        open_session: opens the network on so many threads a run.
        threads: in all.
        plan: what is not to be measured.
    """
    if threads == 1:
        session = open_session(1)
        return Sessions(session, 1, session)
    opened: dict[int, S] = {}

    def opened_with(each: int) -> S:
        if each not in opened:
            opened[each] = open_session(each)
        return opened[each]

    runs = plan.runs
    if not runs:
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
        runs = threads // each
    runs = min(runs, threads)
    session = opened_with(threads // runs)
    wide_session = session if plan.lone is False else opened_with(threads)
    if plan.lone is None and wide_session is not session:
        batch = make_batch(*_LONE_PROBE)
        alone, with_all = _least_seconds(
            partial(session.run, batch), partial(wide_session.run, batch), turns=_TURNS + 2
        )
        if alone < _GAIN * with_all:
            wide_session = session
    return Sessions(session, runs, wide_session)


def make_batches(manifest: Manifest, pad_id: int) -> MakeBatch:
    """Makes batches for a network, as long as it can take."""

    def make(rows: int, length: int, real: int | None = None) -> Arrays:
        shape = (rows, min(length, manifest.max_length))
        ids, mask, zeros = (
            np.full(shape, pad_id, np.int64),
            np.ones(shape, np.int64),
            np.zeros(shape, np.int64),
        )
        mask[:, length if real is None else real :] = 0
        arrays: dict[Feature, npt.NDArray[np.int64]] = {"ids": ids, "mask": mask}
        return {name: arrays.get(feature, zeros) for name, feature in manifest.inputs.items()}

    return make


def measure_cost(session: Session, make_batch: MakeBatch) -> Cost:
    """What a batch costs, from the least that some take.

    Beside short rows, a long one of as many sub-tokens shows what attention's pairs cost, and the same
    rows with padding what that saves.
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
        one: a row of `short` sub-tokens.
        all_short: so many such rows, `_COST_PARTS`.
        padded: the same of which `real` sub-tokens each are none of padding.
        all_long: all of them in one row.
    """
    rows, tokens = _COST_PARTS, _COST_PARTS * short
    whole = max(all_short / tokens, 1e-8)
    pair = max(0.0, all_long - all_short) / (tokens * (tokens - short))
    per_token = (all_short - one) / ((rows - 1) * short) - pair * short
    if per_token < _LEAST * whole:  # too small a network to measure, or too loud a machine
        return Cost(max(one - whole * short, 1e-5), whole)
    fixed = max(one - per_token * short - pair * short * short, 1e-5)
    saved = (all_short - padded) / (per_token * rows * (short - real))
    return Cost(fixed, per_token, min(1.0, max(0.0, 1 - saved)), min(pair / per_token, _MOST_PAIR))


def token_budget(session: Session, make_batch: MakeBatch, length: int, runs: int) -> int:
    """The largest batch that is worth making on a GPU, in padded sub-tokens, so many at a time."""

    def time_of(rows: int, longest: int) -> float:
        batch = make_batch(*session.shape(rows, longest))
        with ThreadPoolExecutor(runs) as pool:
            return _least_seconds(_crowd(pool, session, runs, batch))[0] / runs

    return find_token_budget(time_of, length, _LARGEST)


def _shares(threads: int) -> Iterator[int]:
    """Threads of a run, few first: powers of two, and all."""
    each = 1
    while each < threads:
        yield each
        each *= 2
    yield threads


def _crowd(pool: ThreadPoolExecutor, session: Session, runs: int, batch: Arrays) -> Callable[[], object]:
    """Runs a batch so many times at once, each on a thread of its own, and waits for all."""
    return lambda: list(pool.map(session.run, [batch] * runs))


def _least_seconds(*calls: Callable[[], object], turns: int = _TURNS) -> list[float]:
    """What each call takes at least, in turns: whatever else the machine does only adds to it."""
    for call in calls:
        call()  # threads and memory are made with the first
    times = [[_seconds(call) for call in calls] for _ in range(turns)]
    return [min(of_one) for of_one in zip(*times, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
