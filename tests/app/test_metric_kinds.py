from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from app.metric_kinds import Counter, Histogram

BUCKETS = (0.25, 0.5, 1)


def histogram(
    values: Sequence[float] | npt.NDArray[np.float64], at_once: bool
) -> dict[tuple[str, str], float]:
    """The samples of a histogram that observed these."""
    made = Histogram("h", "help", ("of",), buckets=BUCKETS, registry=CollectorRegistry())
    if at_once:
        made.labels("a").observe_all(values)
    for value in () if at_once else values:
        made.labels("a").observe(value)
    (family,) = made.collect()
    return {(sample.name, sample.labels.get("le", "")): sample.value for sample in family.samples}


@given(values=st.lists(st.sampled_from(BUCKETS) | st.integers(0, 8).map(lambda n: n / 4), min_size=1))
def test_to_observe_all_is_to_observe_each(values: list[float]) -> None:
    each = histogram(values, at_once=False)
    assert histogram(values, at_once=True) == histogram(np.array(values, float), at_once=True) == each


def test_a_child_is_found_again_by_its_labels() -> None:
    counter = Counter("c", "help", ("model", "version"), registry=CollectorRegistry())
    child = counter.labels("ner-en", "1")
    assert counter.labels("ner-en", "1") is child
    assert counter.labels("ner-en", "2") is not child


def test_nothing_tells_when_a_child_was_made() -> None:
    registry = CollectorRegistry()
    Counter("c", "help", ("of",), registry=registry).labels("a").inc()
    Histogram("h", "help", ("of",), buckets=BUCKETS, registry=registry).labels("a").observe(1)
    told = generate_latest(registry).decode()
    assert 'c_total{of="a"} 1.0' in told
    assert 'h_count{of="a"} 1.0' in told
    assert "_created" not in told


def test_wrong_labels_are_an_error_as_ever() -> None:
    counter = Counter("c", "help", ("model", "version"), registry=CollectorRegistry())
    with pytest.raises(ValueError, match="label"):
        counter.labels("ner-en")
    with pytest.raises(ValueError, match="label"):
        counter.inc()
    with pytest.raises(ValueError, match="label"):
        Histogram("h", "help", ("of",), registry=CollectorRegistry()).observe_all([1])
