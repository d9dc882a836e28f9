"""Shadow: a version that answers nobody, and is compared with the one that does.

It gets copies of requests that the stable version has answered, after the answer, and runs them on spare
capacity: a thread of the lowest priority, one text at a time, and only while the stable version has
nothing to do. A copy that finds no room or no quiet moment is dropped, and counted.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.engine.predictor import Entity, Prediction
from app.engine.priority import give_way
from app.errors import NerveError
from app.lifecycle.loading import LoadedVersion
from app.metrics import Metrics

log = logging.getLogger("nerve.lifecycle")

_WAITING = 256
"""Copies of texts that may wait; more would be old by their turn."""

_PATIENCE = 10.0
"""Seconds a copy waits for a quiet moment before it is dropped."""

_LOOK = 0.002
"""Seconds between two looks whether the stable version is idle."""


@dataclass(frozen=True)
class _Copy:
    text: str
    answer: Prediction
    stable: LoadedVersion
    since: float


class ShadowRunner:
    """Runs copies on one shadow version until `close`, which closes the version too.

    Args:
        loaded: the version, loaded in the background.
        percent: share of the stable version's requests to copy.
    """

    def __init__(self, loaded: LoadedVersion, percent: float, metrics: Metrics):
        self.loaded = loaded
        self.percent = percent
        self._of = (loaded.manifest.name, str(loaded.manifest.version))
        self._metrics = metrics
        self._copies: queue.Queue[_Copy | None] = queue.Queue(_WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"{'-'.join(self._of)}-shadow", daemon=True)
        self._thread.start()

    def offer(self, texts: Sequence[str], answers: Sequence[Prediction], stable: LoadedVersion) -> None:
        """Perhaps copy a request that the stable version has answered. Returns at once."""
        if 100 * random.random() >= self.percent:
            return
        now = time.monotonic()
        for text, answer in zip(texts, answers, strict=True):
            try:
                self._copies.put_nowait(_Copy(text, answer, stable, now))
            except queue.Full:
                self._drop("full")

    def close(self) -> None:
        self._closed.set()
        with suppress(queue.Full):
            self._copies.put_nowait(None)
        self._thread.join()
        self.loaded.close()

    def _loop(self) -> None:
        give_way()
        while not self._closed.is_set():
            copy = self._copies.get()
            if copy is None or self._closed.is_set():
                return
            if not self._quiet(copy):
                self._drop("busy")
                continue
            try:
                (found,) = self.loaded.predictor.predict([copy.text])
            except NerveError as error:
                self._drop("failed")
                log.warning("%s/%s in the shadow: %s", *self._of, error.message)
            else:
                self._compare(copy.answer.entities, found.entities)

    def _quiet(self, copy: _Copy) -> bool:
        """Wait until the stable version is idle; whether that came in time."""
        while not copy.stable.predictor.idle:
            if time.monotonic() - copy.since > _PATIENCE or self._closed.wait(_LOOK):
                return False
        return time.monotonic() - copy.since <= _PATIENCE

    def _drop(self, reason: str) -> None:
        self._metrics.shadow_dropped.labels(*self._of, reason).inc()

    def _compare(self, stable: Sequence[Entity], shadow: Sequence[Entity]) -> None:
        ours, theirs = _spans(shadow), _spans(stable)
        if ours == theirs:
            outcome = "same"
        elif {span[:2] for span in ours} == {span[:2] for span in theirs}:
            outcome = "same_spans"
        else:
            outcome = "different"
        self._metrics.shadow_texts.labels(*self._of, outcome).inc()
        for found, spans in (
            ("both", ours & theirs),
            ("stable_only", theirs - ours),
            ("shadow_only", ours - theirs),
        ):
            for _, _, label in spans:
                self._metrics.shadow_entities.labels(*self._of, label, found).inc()


def _spans(entities: Sequence[Entity]) -> set[tuple[int, int, str]]:
    return {(entity.start, entity.end, entity.label) for entity in entities}


@dataclass(frozen=True)
class Agreement:
    """How far a shadow agrees with the stable version, on the copies that it ran.

    Attributes:
        texts: compared.
        same, same_spans: of them with the same entities; with the same spans, labels aside.
        dropped: copies that were not run.
        f1: of its entities with the stable version's taken for right; 1 where neither found any.
        f1_by_label: the same of each label.
    """

    texts: int
    same: int
    same_spans: int
    dropped: int
    f1: float
    f1_by_label: dict[str, float]


def agreement(metrics: Metrics, name: str, version: int, labels: Sequence[str]) -> Agreement:
    """What all workers of this server counted of a shadow since it began."""
    of = {"model": name, "version": str(version)}
    texts = metrics.totals("nerve_shadow_texts_total", "outcome", **of)
    by_label = {
        label: metrics.totals("nerve_shadow_entities_total", "outcome", **of, label=label)
        for label in labels
    }
    same = int(texts.get("same", 0))
    return Agreement(
        texts=int(sum(texts.values())),
        same=same,
        same_spans=same + int(texts.get("same_spans", 0)),
        dropped=int(metrics.total("nerve_shadow_dropped_total", **of)),
        f1=_f1(*by_label.values()),
        f1_by_label={label: _f1(counts) for label, counts in by_label.items()},
    )


def _f1(*counts: dict[str, float]) -> float:
    both = sum(count.get("both", 0) for count in counts)
    every = sum(sum(count.values()) for count in counts)
    return 2 * both / (both + every) if every else 1.0
