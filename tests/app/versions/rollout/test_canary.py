import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.versions.rollout.canary import CanaryWatch, chosen
from app.versions.rollout.desired import AbortRule, Canary


@pytest.mark.parametrize("percent", [0, 0.5, 5, 50, 100])
@pytest.mark.parametrize("sticky", [False, True])
def test_the_share_is_honoured_within_chance(percent: float, sticky: bool) -> None:
    canary, count = Canary(version=4, percent=percent), 20_000
    found = sum(chosen(canary, "ner-en", f"user {n}" if sticky else None) for n in range(count))
    share = percent / 100
    assert abs(found - share * count) <= 5 * math.sqrt(count * share * (1 - share))


@given(st.text(), st.floats(0, 100), st.floats(0, 100))
def test_a_key_is_always_answered_alike_and_stays_when_the_share_grows(
    key: str, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    first = chosen(Canary(version=4, percent=low), "ner-en", key)
    assert first == chosen(Canary(version=4, percent=low), "ner-en", key)
    assert not first or chosen(Canary(version=4, percent=high), "ner-en", key)


def test_other_canaries_are_tried_out_by_other_callers() -> None:
    chose = [
        [chosen(Canary(version=version, percent=50), "ner-en", str(n)) for n in range(200)]
        for version in (4, 5)
    ]
    assert chose[0] != chose[1]


def watch(**rule: float) -> CanaryWatch:
    return CanaryWatch(AbortRule(requests=100, **rule))


def feed(watch: CanaryWatch, canary: bool, count: int, failures: int = 0, seconds: float = 0.01) -> None:
    for number in range(count):
        watch.record(canary, seconds, number < failures)


def test_too_few_requests_say_nothing() -> None:
    one = watch(errors=1)
    feed(one, False, 100)
    feed(one, True, 99, failures=99)
    assert one.verdict() is None
    feed(one, True, 1)
    assert (one.verdict() or "").startswith("errors: 99 of its last 100 requests failed")


@pytest.mark.parametrize(("failures", "aborted"), [(0, False), (2, False), (3, True)])
def test_errors_beside_a_stable_version_that_never_fails(failures: int, aborted: bool) -> None:
    one = watch(errors=2)
    feed(one, False, 100)
    feed(one, True, 100, failures)
    assert (one.verdict() is not None) == aborted


def test_what_fails_as_often_as_the_stable_version_is_kept() -> None:
    one = watch(errors=2)
    feed(one, False, 100, failures=30)
    feed(one, True, 100, failures=50)
    assert one.verdict() is None
    feed(one, True, 100, failures=70)
    assert one.verdict()


def test_latency_is_compared_by_its_99th_percentile() -> None:
    one = watch(p99=2)
    feed(one, True, 100, seconds=0.5)
    assert one.verdict() is None  # nothing to compare with yet
    feed(one, False, 100, seconds=0.3)
    assert one.verdict() is None
    feed(one, True, 100, seconds=0.61)
    assert one.verdict() == ("p99: 610.0 ms over its last 100 requests, 300.0 ms for the stable version")


def test_only_the_last_requests_count() -> None:
    one = watch(errors=1)
    feed(one, False, 100)
    feed(one, True, 100, failures=90)
    feed(one, True, 100)
    assert one.verdict() is None
