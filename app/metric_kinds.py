"""Metric kinds are the counters, gauges and histograms of `prometheus_client`, made faster."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import prometheus_client
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample


class _Remembering(MetricWrapperBase):
    """Caches its children by their labels, so that a child is found without checks and without a lock."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._known: dict[tuple[str, ...], Self] = {}

    def labels(self, *values: str) -> Self:  # type: ignore[override]
        """Return the child with these label values, given in the order of the metric's label names."""
        child = self._known.get(values)
        if child is None:
            child = self._known[values] = super().labels(*values)
        return child

    def _child_samples(self) -> Iterable[Sample]:
        """Return the samples without a child's time of creation. The library's own switch for that would
        change the whole process, which another application may own."""
        return [sample for sample in super()._child_samples() if sample.name != "_created"]


class Counter(_Remembering, prometheus_client.Counter):
    """Counts something, and only grows."""


class Gauge(_Remembering, prometheus_client.Gauge):
    """Holds a value that goes up and down."""


class Histogram(_Remembering, prometheus_client.Histogram):
    """Counts how many values fell into each range."""

    def observe_all(self, values: Sequence[float] | npt.NDArray[np.float64]) -> None:
        """Do as `observe` for each value, with one step for the sum and one for each bucket."""
        self._raise_if_not_observable()  # type: ignore[no-untyped-call]
        if isinstance(values, np.ndarray):
            self._sum.inc(float(values.sum()))
            below = 0
            for bucket, bound in zip(self._buckets, self._upper_bounds, strict=True):
                upto = int(np.count_nonzero(values <= bound))
                bucket.inc(upto - below)
                below = upto
            return
        self._sum.inc(sum(values))
        counts: dict[int, int] = {}
        for value in values:
            bucket = bisect_left(self._upper_bounds, value)
            counts[bucket] = counts.get(bucket, 0) + 1
        for bucket, count in counts.items():
            self._buckets[bucket].inc(count)
