import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.rate import Rate


def test_rate_is_work_without_the_breaks() -> None:
    rate, now = Rate(1.0), 0.0
    for _ in range(100):
        now += 100.0  # nothing to do
        rate.begin(now)
        for _ in range(5):
            now += 0.1
            rate.done(1000, now)
    assert rate.seconds_per_token == pytest.approx(1e-4, rel=0.01)


def test_a_machine_that_stood_still_is_soon_as_fast_as_before() -> None:
    rate, now = Rate(1e-4), 0.0
    rate.begin(now)
    now += 600.0
    rate.done(500, now)
    assert rate.seconds_per_token < 3e-4
    for _ in range(20):
        now += 0.05
        rate.done(500, now)
    assert rate.seconds_per_token == pytest.approx(1e-4, rel=0.3)


@given(slower=st.floats(0.05, 20.0), tokens=st.integers(50, 1_000))
def test_rate_follows_a_machine_that_gets_slower_or_faster(slower: float, tokens: int) -> None:
    rate, now = Rate(1e-4), 0.0
    rate.begin(now)
    for _ in range(-(-40_000 // tokens)):
        now += slower * 1e-4 * tokens
        rate.done(tokens, now)
    assert rate.seconds_per_token == pytest.approx(slower * 1e-4, rel=0.1)


def test_large_batches_that_end_together_leave_a_rate_that_holds() -> None:
    rate, now = Rate(1e-6, at_a_time=2 * 32_768), 0.0
    rate.begin(now)
    for _ in range(200):
        now += 2 * 32_768e-6
        rate.done(32_768, now)
        rate.done(32_768, now - 1e-3)  # it looked at its clock before the other had the lock
    assert rate.seconds_per_token == pytest.approx(1e-6, rel=0.3)


@given(st.lists(st.tuples(st.integers(1, 100_000), st.floats(-1.0, 1e4)), min_size=1, max_size=60))
def test_a_rate_is_always_above_nothing(steps: list[tuple[int, float]]) -> None:
    rate = Rate(1e-5)
    for tokens, now in steps:
        rate.done(tokens, now)
        assert 0 < rate.seconds_per_token < float("inf")


def test_the_least_is_what_was_measured_once_enough_has_run() -> None:
    rate = Rate(1.0, at_a_time=100)
    rate.begin(0.0)
    rate.done(400, 0.4)
    assert rate.least == 0
    rate.done(400, 0.8)
    assert rate.least == pytest.approx(1e-3)
    rate.done(1_000, 1.3)
    assert rate.least < 0.8e-3
    least = rate.least
    rate.done(10_000, 100.0)
    assert rate.least == least
