"""Metrics: every Prometheus metric of the server in one place."""

import weakref

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from app.engine.scheduler import BatchReport
from app.lifecycle.loading import LoadedVersion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MODEL = ("model", "version")


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        r = self.registry
        self.requests = Counter(
            "nerve_requests",
            "Requests by route, status and the version that answered",
            ("route", *_MODEL, "status"),
            registry=r,
        )
        self.request_seconds = Histogram(
            "nerve_request_seconds",
            "Time from a request's first byte to the end of its answer",
            ("route", *_MODEL, "status"),
            buckets=_SECONDS,
            registry=r,
        )
        self.in_flight = Gauge("nerve_requests_in_flight", "Requests being answered", registry=r)
        self.texts = Counter("nerve_texts", "Texts answered", _MODEL, registry=r)
        self.entities = Counter("nerve_entities", "Entities returned", (*_MODEL, "label"), registry=r)
        self.queue_tokens = Gauge("nerve_queue_tokens", "Sub-tokens waiting to be run", _MODEL, registry=r)
        self.queue_seconds = Histogram(
            "nerve_queue_seconds",
            "Time a window waited before its batch ran",
            _MODEL,
            buckets=_SECONDS,
            registry=r,
        )
        self.inference_seconds = Histogram(
            "nerve_inference_seconds",
            "Time the session ran a batch",
            _MODEL,
            buckets=_SECONDS,
            registry=r,
        )
        self.batch_rows = Histogram(
            "nerve_batch_rows",
            "Windows a batch",
            _MODEL,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=r,
        )
        self.batch_tokens = Histogram(
            "nerve_batch_tokens",
            "Sub-tokens a batch, padding left out",
            _MODEL,
            buckets=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
            registry=r,
        )
        self.batch_failures = Counter(
            "nerve_batch_failures", "Batches the session failed on", _MODEL, registry=r
        )
        self.model_info = Gauge(
            "nerve_model_info",
            "Loaded sessions of a version, and what they run on",
            (*_MODEL, "precision", "provider", "threads"),
            registry=r,
        )
        self.load_seconds = Histogram(
            "nerve_model_load_seconds",
            "Time to verify, load, warm up and check a version",
            ("model", "outcome"),
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=r,
        )
        self.swaps = Counter(
            "nerve_model_swap",
            "Changes of the version that serves, by outcome: swapped or refused",
            ("model", "outcome"),
            registry=r,
        )

    def batch(self, model: str, version: str, report: BatchReport) -> None:
        """Count one batch of a version."""
        of = (model, version)
        self.inference_seconds.labels(*of).observe(report.seconds)
        self.batch_rows.labels(*of).observe(report.rows)
        self.batch_tokens.labels(*of).observe(report.tokens)
        queue = self.queue_seconds.labels(*of)
        for seconds in report.waited:
            queue.observe(seconds)
        if report.failed:
            self.batch_failures.labels(*of).inc()

    def loaded(self, version: LoadedVersion) -> None:
        self.model_info.labels(*_info(version)).inc()
        waiting = self.queue_tokens.labels(version.manifest.name, str(version.manifest.version))
        predictor = weakref.ref(version.predictor)
        waiting.set_function(lambda: p.waiting_tokens if (p := predictor()) else 0)

    def closed(self, version: LoadedVersion) -> None:
        self.model_info.labels(*_info(version)).dec()


def _info(version: LoadedVersion) -> tuple[str, ...]:
    manifest = version.manifest
    return (
        manifest.name,
        str(manifest.version),
        version.variant.precision,
        version.provider,
        str(version.threads),
    )
