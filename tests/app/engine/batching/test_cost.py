from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.cost import Cost, CostMeter, Pace


@given(fixed=st.floats(1e-4, 1e-2), per_token=st.floats(1e-6, 1e-3))
def test_the_cost_follows_the_machine(fixed: float, per_token: float) -> None:
    random, real = Random(1), Cost(fixed, per_token, 0.25, 1e-3)
    meter = CostMeter(Cost(fixed / 3, 2 * per_token, 0.25, 1e-3))
    for _ in range(2000):
        rows, longest = random.randint(1, 16), random.randint(8, 128)
        tokens = random.randint(rows, rows * longest)
        meter.observe(rows, longest, tokens, real.of(rows, longest, tokens))
    assert meter.cost.of(8, 32, 256) == pytest.approx(real.of(8, 32, 256), rel=0.1)
    assert meter.cost.of(8, 32, 99) == pytest.approx(real.of(8, 32, 99), rel=0.2)
    assert meter.cost.of(1, 16, 16) == pytest.approx(real.of(1, 16, 16), rel=0.4)


@given(
    size=st.integers(1, 10_000),
    seconds=st.lists(st.floats(0, 1e3), min_size=1, max_size=50),
)
def test_a_cost_is_always_one(size: int, seconds: list[float]) -> None:
    meter = CostMeter(Cost())
    for one in seconds:
        meter.observe(1, size, size, one)
    assert meter.cost.fixed > 0
    assert meter.cost.per_token > 0
    assert meter.cost.enough >= 0


def test_batches_of_one_size_say_little_of_others() -> None:
    meter = CostMeter(Cost(1e-3, 1e-4))
    for _ in range(500):
        meter.observe(8, 32, 256, Cost(1e-3, 1e-4).of(8, 32, 256))
    assert meter.cost.of(1, 16, 16) == pytest.approx(Cost(1e-3, 1e-4).of(1, 16, 16), rel=0.01)


def test_a_stalled_batch_changes_little() -> None:
    meter = CostMeter(Cost(1e-3, 1e-4))
    meter.observe(8, 32, 256, 60.0)
    assert meter.cost.of(8, 32, 256) < 2 * Cost(1e-3, 1e-4).of(8, 32, 256)


def test_pace_is_work_without_the_breaks() -> None:
    pace, now = Pace(1.0), 0.0
    for _ in range(100):
        now += 100.0  # nothing to do
        pace.begin(now)
        for _ in range(5):
            now += 0.1
            pace.done(1000, now)
    assert pace.seconds_per_token == pytest.approx(1e-4, rel=0.01)


def test_a_machine_that_stood_still_is_soon_as_fast_as_before() -> None:
    pace, now = Pace(1e-4), 0.0
    pace.begin(now)
    now += 600.0
    pace.done(500, now)
    assert pace.seconds_per_token < 3e-4
    for _ in range(20):
        now += 0.05
        pace.done(500, now)
    assert pace.seconds_per_token == pytest.approx(1e-4, rel=0.3)


@given(slower=st.floats(0.05, 20.0), tokens=st.integers(50, 1_000))
def test_pace_follows_a_machine_that_gets_slower_or_faster(slower: float, tokens: int) -> None:
    pace, now = Pace(1e-4), 0.0
    pace.begin(now)
    for _ in range(-(-40_000 // tokens)):
        now += slower * 1e-4 * tokens
        pace.done(tokens, now)
    assert pace.seconds_per_token == pytest.approx(slower * 1e-4, rel=0.1)


def test_large_batches_that_end_together_leave_a_pace_that_holds() -> None:
    pace, now = Pace(1e-6, beside=2 * 32_768), 0.0
    pace.begin(now)
    for _ in range(200):
        now += 2 * 32_768e-6
        pace.done(32_768, now)
        pace.done(32_768, now - 1e-3)  # it looked at its clock before the other had the lock
    assert pace.seconds_per_token == pytest.approx(1e-6, rel=0.3)


@given(st.lists(st.tuples(st.integers(1, 100_000), st.floats(-1.0, 1e4)), min_size=1, max_size=60))
def test_a_pace_is_always_above_nothing(steps: list[tuple[int, float]]) -> None:
    pace = Pace(1e-5)
    for tokens, now in steps:
        pace.done(tokens, now)
        assert 0 < pace.seconds_per_token < float("inf")
