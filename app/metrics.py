"""Metrics defines every Prometheus metric of the server."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.samples import Sample

from app.engine.batching.report import BatchReport
from app.engine.decoding.entities import Entities, Prediction
from app.metric_kinds import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MODEL = ("model", "version")


class Metrics:
    """Holds the metrics of one server.

    Args:
        whole_server: takes the registry of this process, and returns the registry that is read for
            `exposition` and `samples`. It is needed if several processes count for one server.

    Attributes:
        registry: the registry in which this process counts.
    """

    def __init__(self, whole_server: Callable[[CollectorRegistry], CollectorRegistry] | None = None):
        self.registry = CollectorRegistry()
        self._server = whole_server(self.registry) if whole_server else self.registry
        r = self.registry
        self.workers = Gauge(
            "nerve_workers", "Processes that take requests", registry=r, multiprocess_mode="livesum"
        )
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
        self.in_flight = Gauge(
            "nerve_requests_in_flight", "Requests being answered", registry=r, multiprocess_mode="livesum"
        )
        self.texts = Counter("nerve_texts", "Texts answered", _MODEL, registry=r)
        self.entities = Counter("nerve_entities", "Entities returned", (*_MODEL, "label"), registry=r)
        self.queue_tokens = Gauge(
            "nerve_queue_tokens",
            "Sub-tokens waiting to be run",
            _MODEL,
            registry=r,
            multiprocess_mode="livesum",
        )
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
        self.stage_seconds = Counter(
            "nerve_stage_seconds",
            "Seconds that requests spent in a stage, summed: parse, tokenize, queue (each window's wait), "
            "run (each batch, once), decode and render",
            (*_MODEL, "stage"),
            registry=r,
        )
        self.model_info = Gauge(
            "nerve_model_info",
            "Loaded sessions of a version, and what they run on",
            (*_MODEL, "precision", "provider", "threads", "runs"),
            registry=r,
            multiprocess_mode="livesum",
        )
        self.load_seconds = Histogram(
            "nerve_model_load_seconds",
            "Time to verify, load, warm up and check a version; each worker counts its own",
            ("model", "outcome"),
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=r,
        )
        self.swaps = Counter(
            "nerve_model_swap",
            "Changes of the version that serves, by outcome: swapped or refused; "
            "each worker counts its own",
            ("model", "outcome"),
            registry=r,
        )
        self.taken_out = Counter(
            "nerve_model_taken_out",
            "Versions taken out of service as their sessions kept failing",
            _MODEL,
            registry=r,
        )
        self.canary_aborts = Counter(
            "nerve_canary_aborts",
            "Canaries withdrawn by their own rule, by what was worse",
            (*_MODEL, "reason"),
            registry=r,
        )
        self.entity_scores = Histogram(
            "nerve_entity_score",
            "Scores of the entities returned",
            (*_MODEL, "label"),
            buckets=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
            registry=r,
        )
        self.shadow_texts = Counter(
            "nerve_shadow_texts",
            "Texts that a shadow annotated, by how its answer compares with the one given: same, "
            "same_spans (with other labels) or different; stable: the version that gave it",
            (*_MODEL, "stable", "outcome"),
            registry=r,
        )
        self.shadow_entities = Counter(
            "nerve_shadow_entities",
            "Entities by who found them: both, stable_only or shadow_only; "
            "stable: the version compared with",
            (*_MODEL, "stable", "label", "outcome"),
            registry=r,
        )
        self.shadow_dropped = Counter(
            "nerve_shadow_dropped",
            "Texts that a shadow was not given, by reason",
            (*_MODEL, "reason"),
            registry=r,
        )

    def batch(self, model: str, version: str, report: BatchReport) -> None:
        """Count one batch of a version, as the engine reports it."""
        of = (model, version)
        self.inference_seconds.labels(*of).observe(report.seconds)
        self.batch_rows.labels(*of).observe(report.rows)
        self.batch_tokens.labels(*of).observe(report.tokens)
        self.queue_seconds.labels(*of).observe_all(report.waited)
        for stage, seconds in (
            ("tokenize", report.tokenize_seconds),
            ("queue", sum(report.waited)),
            ("run", report.seconds),
            ("decode", report.decode_seconds),
        ):
            self.stage_seconds.labels(*of, stage).inc(seconds)
        if report.failed:
            self.batch_failures.labels(*of).inc()

    def answered(self, model: str, version: str, predictions: Sequence[Prediction]) -> None:
        """Count texts that were answered, and their entities by label and score."""
        scores: dict[str, list[float]] = {}
        for prediction in predictions:
            if isinstance(prediction.entities, Entities):
                for label, many in prediction.entities.scores():
                    self.entities.labels(model, version, label).inc(len(many))
                    self.entity_scores.labels(model, version, label).observe_all(many)
                continue
            for entity in prediction.entities:
                scores.setdefault(entity.label, []).append(entity.score)
        self.texts.labels(model, version).inc(len(predictions))
        for label, found in scores.items():
            self.entities.labels(model, version, label).inc(len(found))
            self.entity_scores.labels(model, version, label).observe_all(found)

    def exposition(self) -> bytes:
        """Return the metrics of the whole server in Prometheus' text format."""
        return generate_latest(self._server)

    def samples(self, *names: str, **labels: str) -> list[Sample]:
        """Return the whole server's samples with these names, such as `nerve_requests_total`, and labels.

        Each call reads the files of all workers, so ask for all names at once."""
        return [
            sample
            for family in self._server.collect()
            for sample in family.samples
            if sample.name in names and labels.items() <= sample.labels.items()
        ]
