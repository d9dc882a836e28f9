"""Counters, gauges and histograms as `prometheus_client` has them, with less work a request."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Self

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample


class _Remembering(MetricWrapperBase):
    """Remembers its children by their labels: one is found again without checks and without a lock."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._known: dict[tuple[str, ...], Self] = {}

    def labels(self, *values: str) -> Self:  # type: ignore[override]
        """The child with these labels, in the order of the metric's label names."""
        child = self._known.get(values)
        if child is None:
            child = self._known[values] = super().labels(*values)
        return child

    def _child_samples(self) -> Iterable[Sample]:
        """Without the time at which a child was made. The library leaves it out by a switch for the whole
        process, which may not be ours."""
        return [sample for sample in super()._child_samples() if sample.name != "_created"]


class Counter(_Remembering, prometheus_client.Counter):
    """A count that only grows."""


class Gauge(_Remembering, prometheus_client.Gauge):
    """A value that goes up and down."""


class Histogram(_Remembering, prometheus_client.Histogram):
    """How often values fell into which range."""

    def observe_all(self, values: Sequence[float]) -> None:
        """As `observe` of each: one step for the sum, and one for each bucket that values fall into."""
        self._raise_if_not_observable()  # type: ignore[no-untyped-call]
        self._sum.inc(sum(values))
        counts: dict[int, int] = {}
        for value in values:
            bucket = bisect_left(self._upper_bounds, value)
            counts[bucket] = counts.get(bucket, 0) + 1
        for bucket, count in counts.items():
            self._buckets[bucket].inc(count)
