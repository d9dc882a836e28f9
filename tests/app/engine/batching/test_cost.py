from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.cost import CostMeter
from app.engine.runtimes.cost import Cost


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


def test_batches_of_one_size_say_little_of_others() -> None:
    meter = CostMeter(Cost(1e-3, 1e-4))
    for _ in range(500):
        meter.observe(8, 32, 256, Cost(1e-3, 1e-4).of(8, 32, 256))
    assert meter.cost.of(1, 16, 16) == pytest.approx(Cost(1e-3, 1e-4).of(1, 16, 16), rel=0.01)


def test_a_stalled_batch_changes_little() -> None:
    meter = CostMeter(Cost(1e-3, 1e-4))
    meter.observe(8, 32, 256, 60.0)
    assert meter.cost.of(8, 32, 256) < 2 * Cost(1e-3, 1e-4).of(8, 32, 256)
