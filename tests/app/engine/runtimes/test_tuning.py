import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.runtimes.session import Arrays, Logits
from app.engine.runtimes.tuning import Plan, Sessions, cost_of, measure_cost, tune

SHAPE = 0.0002
"""Seconds that a sub-token takes on one thread."""


@dataclass
class Machine:
    """A session that takes as long as a network on a machine of some cores would; it runs nothing.

    Args:
        alike: how much of the second and further threads of a run does work.
        packed: padding takes no time.
        pair: what two sub-tokens of a row take, in those that one takes.
    """

    threads: int
    alike: float
    packed: bool = False
    pair: float = 0.0

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        return rows, longest

    def run(self, batch: Arrays) -> Logits:
        shape = next(iter(batch.values())).shape
        speed = 1 + self.alike * (self.threads - 1)
        tokens = float(batch["mask"].sum()) if self.packed else shape[0] * shape[1]
        time.sleep(SHAPE * (tokens + self.pair * shape[0] * shape[1] ** 2) / speed)
        return np.zeros((*shape, 3), np.float32)


def make_batch(rows: int, length: int, real: int | None = None) -> Arrays:
    mask = np.zeros((rows, length), np.int64)
    mask[:, :real] = 1
    return {"mask": mask}


def opener(alike: float, opened: list[int]) -> Callable[[int], Machine]:
    def open_session(threads: int) -> Machine:
        opened.append(threads)
        return Machine(threads, alike)

    return open_session


def tuned(
    alike: float, threads: int, runs: int = 0, lone: bool | None = None
) -> tuple[Sessions[Machine], list[int]]:
    opened: list[int] = []
    return tune(opener(alike, opened), threads, make_batch, Plan(runs, lone)), opened


def test_where_threads_wait_for_each_other_batches_run_beside_each_other() -> None:
    sessions, opened = tuned(alike=0.3, threads=4)
    assert (sessions.session.threads, sessions.runs, sessions.lone.threads) == (1, 4, 4)
    assert opened == [1, 2, 4]  # two threads a run were slower; four are for what comes alone


def test_a_second_session_must_be_worth_its_memory() -> None:
    sessions, _ = tuned(alike=0.01, threads=4)
    assert sessions.lone is sessions.session


def test_where_threads_help_more_than_batches_one_runs_at_a_time() -> None:
    sessions, _ = tuned(alike=4.0, threads=4)
    assert (sessions.session.threads, sessions.runs) == (4, 1)
    assert sessions.lone is sessions.session


def test_one_thread_needs_no_measuring() -> None:
    sessions, opened = tuned(alike=1.0, threads=1)
    assert (sessions.session.threads, sessions.runs) == (1, 1)
    assert opened == [1]


@pytest.mark.parametrize(("runs", "each"), [(1, 4), (2, 2), (4, 1), (9, 1)])
def test_what_is_settled_is_not_measured(runs: int, each: int) -> None:
    sessions, _ = tuned(alike=0.3, threads=4, runs=runs)
    assert (sessions.session.threads, sessions.runs) == (each, min(runs, 4))


@pytest.mark.parametrize(("lone", "alike"), [(True, 0.01), (False, 0.3)])
def test_a_network_runs_as_another_did_whatever_would_be_measured(lone: bool, alike: float) -> None:
    sessions, opened = tuned(alike, threads=4, runs=4, lone=lone)
    assert (sessions.lone is not sessions.session) is lone
    assert opened == [1, 4][: 1 + lone]
    assert sessions.plan == Plan(4, lone)


def test_cost_is_the_line_through_what_batches_take() -> None:
    cost = measure_cost(Machine(1, 1.0), make_batch)
    assert cost.per_token == pytest.approx(SHAPE, rel=0.5)
    assert cost.fixed > 0
    assert cost.padding == pytest.approx(1.0, abs=0.2)


def test_what_padding_saves_and_what_pairs_cost_is_found() -> None:
    cost = measure_cost(Machine(1, 1.0, packed=True, pair=0.01), make_batch)
    assert cost.padding == pytest.approx(0.0, abs=0.2)
    assert cost.pair == pytest.approx(0.01, rel=0.5)
    assert cost.of(4, 32, 40) < 0.6 * cost.of(4, 32, 128)


def test_parallel_runs_are_made_on_threads_of_their_own() -> None:
    names: set[str] = set()

    class Watched(Machine):
        def run(self, batch: Arrays) -> Logits:
            names.add(threading.current_thread().name)
            return super().run(batch)

    tune(lambda threads: Watched(threads, 0.3), 2, make_batch)
    assert len(names) >= 2


@given(st.lists(st.floats(1e-5, 1e-1), min_size=4, max_size=4))
def test_whatever_is_measured_a_cost_is_one_to_go_by(seconds: list[float]) -> None:
    cost = cost_of(32, 8, *seconds)
    assert cost.fixed > 0
    assert cost.per_token > 0
    assert 0 <= cost.padding <= 1
    assert 0 <= cost.pair <= 1 / 64


def test_a_network_of_few_positions_has_a_cost() -> None:
    def make_short(rows: int, length: int, real: int | None = None) -> Arrays:
        return make_batch(rows, min(length, 8), real)

    cost = measure_cost(Machine(1, 1.0), make_short)
    assert cost.per_token == pytest.approx(SHAPE, rel=0.5)
