import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.runtimes.runtime import Arrays, Logits, Settled
from app.engine.runtimes.tuning import Tuned, cost_of, find_token_budget, measure_cost, token_budget, tune
from app.errors import InferenceFailed
from tests.runtimes import TOKEN_SECONDS, Machine, make_batch

LONGEST = 512


def opener(alike: float, opened: list[int]) -> Callable[[int], Machine]:
    def open_session(threads: int) -> Machine:
        opened.append(threads)
        return Machine(threads, alike)

    return open_session


def tuned(
    alike: float, threads: int, runs: int = 0, own_single: bool | None = None
) -> tuple[Tuned[Machine], list[int]]:
    opened: list[int] = []
    return tune(opener(alike, opened), threads, make_batch, Settled(runs, own_single)), opened


def test_where_threads_wait_for_each_other_batches_run_beside_each_other() -> None:
    sessions, opened = tuned(alike=0.3, threads=4)
    assert (sessions.session.threads, sessions.runs, sessions.single.threads) == (1, 4, 4)
    assert opened == [1, 2, 4]  # two threads a run were slower; four are for what comes alone


def test_a_second_session_must_be_worth_its_memory() -> None:
    sessions, _ = tuned(alike=0.01, threads=4)
    assert sessions.single is sessions.session


def test_a_gain_that_other_work_hides_at_first_is_found() -> None:
    """The wide session is as slow as the narrow one for a while, as if one of its threads had to wait."""

    class Delayed(Machine):
        left = 8

        def run(self, batch: Arrays) -> Logits:
            self.left -= 1
            if self.left >= 0:
                time.sleep(0.01)
            return super().run(batch)

    sessions = tune(
        lambda threads: (Delayed if threads == 4 else Machine)(threads, 0.3),
        4,
        make_batch,
        Settled(runs=4),
    )
    assert sessions.single.threads == 4


def test_where_threads_help_more_than_batches_one_runs_at_a_time() -> None:
    """Four threads are 13 % better than two, which a clock must see beside other work: so runs are long."""
    sessions = tune(
        lambda threads: Machine(threads, 4.0, token_seconds=5 * TOKEN_SECONDS), 4, make_batch, Settled()
    )
    assert (sessions.session.threads, sessions.runs) == (4, 1)
    assert sessions.single is sessions.session


def test_one_thread_needs_no_measuring() -> None:
    sessions, opened = tuned(alike=1.0, threads=1)
    assert (sessions.session.threads, sessions.runs) == (1, 1)
    assert opened == [1]


@pytest.mark.parametrize(("runs", "each"), [(1, 4), (2, 2), (4, 1), (9, 1)])
def test_what_is_settled_is_not_measured(runs: int, each: int) -> None:
    sessions, _ = tuned(alike=0.3, threads=4, runs=runs)
    assert (sessions.session.threads, sessions.runs) == (each, min(runs, 4))


@pytest.mark.parametrize(("own", "alike"), [(True, 0.01), (False, 0.3)])
def test_a_network_runs_as_another_did_whatever_would_be_measured(own: bool, alike: float) -> None:
    sessions, opened = tuned(alike, threads=4, runs=4, own_single=own)
    assert (sessions.single is not sessions.session) is own
    assert opened == [1, 4][: 1 + own]


def test_cost_is_the_line_through_what_batches_take() -> None:
    cost = measure_cost(Machine(1, 1.0), make_batch)
    assert cost.per_token == pytest.approx(TOKEN_SECONDS, rel=0.5)
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

    tune(lambda threads: Watched(threads, 0.3), 2, make_batch, Settled())
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
    assert cost.per_token == pytest.approx(TOKEN_SECONDS, rel=0.5)


class Gpu:
    """A simulated GPU: launches take their time, then it is as fast as its units, until memory ends."""

    def __init__(self, launch: float, per_token: float, memory: int = 1 << 40):
        self.launch, self.per_token, self.memory = launch, per_token, memory
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: int, length: int) -> float:
        self.asked.append((rows, length))
        if rows * length > self.memory:
            raise InferenceFailed("out of memory")
        return self.launch + self.per_token * rows * length


def test_a_batch_grows_while_that_pays() -> None:
    gpu = Gpu(launch=2e-3, per_token=1e-6)
    budget = find_token_budget(gpu, LONGEST, 1 << 20)
    now, twice = (budget * rows / gpu(rows, budget) for rows in (1, 2))
    half = budget / 2 / gpu(1, budget // 2)
    assert now >= 1.05 * half
    assert twice < 1.05 * now


def test_where_nothing_is_gained_a_row_is_enough() -> None:
    assert find_token_budget(Gpu(launch=0.0, per_token=1e-6), LONGEST, 1 << 20) == LONGEST


def test_the_end_of_memory_is_survived() -> None:
    gpu = Gpu(launch=1.0, per_token=1e-6, memory=10_000)
    assert find_token_budget(gpu, LONGEST, 1 << 20) == 8_192
    assert gpu.asked[-1] == (32, LONGEST)  # 16,384 sub-tokens failed, and nothing larger was tried


def test_the_limit_is_kept() -> None:
    gpu = Gpu(launch=1.0, per_token=1e-9)
    assert find_token_budget(gpu, LONGEST, 5_000) == 4_096
    assert max(rows * length for rows, length in gpu.asked) == 4_096


def test_one_uneven_time_does_not_end_the_search() -> None:
    gpu = Gpu(launch=1.0, per_token=1e-6)

    def uneven(rows: int, length: int) -> float:
        return gpu(rows, length) * (2.5 if rows == 4 else 1.0)

    assert find_token_budget(uneven, LONGEST, 16_384) == 16_384


def test_a_network_that_fails_on_one_row_is_told() -> None:
    with pytest.raises(InferenceFailed, match="out of memory"):
        find_token_budget(Gpu(launch=1.0, per_token=1e-6, memory=100), LONGEST, 1 << 20)


def test_a_budget_is_measured_with_as_many_batches_at_once_as_will_run() -> None:
    names: set[str] = set()

    class Watched(Machine):
        def run(self, batch: Arrays) -> Logits:
            names.add(threading.current_thread().name)
            if batch["mask"].size > 64:
                raise InferenceFailed("out of memory")
            return super().run(batch)

    assert token_budget(Watched(1), make_batch, 32, runs=2) in (32, 64)
    assert len(names) >= 2
