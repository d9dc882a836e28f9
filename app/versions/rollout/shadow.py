"""Shadow: runs copies of requests on a version that answers none, and compares it with the stable one.

A request is copied once the stable version has answered it. Copies use spare capacity only: a thread of the
lowest priority runs one text at a time, while the stable version is idle. A copy that finds the queue full
or waits too long is dropped and counted.
"""

import logging
import queue
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.engine.decoding.entities import Entity, Prediction
from app.engine.priority import give_way
from app.errors import NerveError
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion

log = logging.getLogger("nerve.lifecycle")

_WAITING = 256
"""Most copies that wait; further ones would be too old when their turn comes."""

_PATIENCE = 10.0
"""Seconds that a copy waits for the stable version to be idle before it is dropped."""

_IDLE_POLL = 0.002
"""Seconds between two checks whether the stable version is idle."""

_MOST_LOGGED = 20
"""Most different failure messages that are logged of one shadow; messages with numbers never end."""

_TEXTS, _ENTITIES, _DROPPED = (f"nerve_shadow_{what}_total" for what in ("texts", "entities", "dropped"))


@dataclass(frozen=True)
class _Copy:
    """Holds a text, the stable version's answer and number, and when it was copied (monotonic)."""

    text: str
    answer: Prediction
    stable: int
    since: float


class ShadowRunner:
    """Runs copies on one shadow version until `close`, which closes the version too.

    Args:
        loaded: the version, loaded in the background.
        percent: the share of the stable version's requests that is copied; it may be changed.
        idle: says whether the present stable version has nothing to do; called before each copy is run.
        close: closes the version; called once, on the runner's thread, when it has ended.
    """

    def __init__(
        self,
        loaded: LoadedVersion,
        percent: float,
        idle: Callable[[], bool],
        metrics: Metrics,
        close: Callable[[LoadedVersion], None],
    ):
        self.loaded = loaded
        self.percent = percent
        self._of = (loaded.manifest.name, str(loaded.manifest.version))
        self._idle = idle
        self._metrics = metrics
        self._close = close
        self._copies: queue.Queue[_Copy | None] = queue.Queue(_WAITING)
        self._ending = threading.Event()
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._loop, name=f"{'-'.join(self._of)}-shadow", daemon=True)
        self._thread.start()

    def offer(self, texts: Sequence[str], answers: Sequence[Prediction], stable: LoadedVersion) -> None:
        """Copy an answered request with a chance of `percent`, and return at once."""
        if 100 * random.random() >= self.percent:
            return
        now = time.monotonic()
        for text, answer in zip(texts, answers, strict=True):
            try:
                self._copies.put_nowait(_Copy(text, answer, stable.manifest.version, now))
            except queue.Full:
                self._drop("full")

    def close(self, wait: bool = False) -> None:
        """End, without waiting for the thread, which is slow on a busy machine (lowest priority).

        Args:
            wait: return only when the thread has ended and the version is closed.
        """
        self._ending.set()
        with suppress(queue.Full):
            self._copies.put_nowait(None)
        if wait:
            self._thread.join()

    def _loop(self) -> None:
        give_way()
        while not self._ending.is_set():
            copy = self._copies.get()
            if copy is None:
                break
            try:
                self._run(copy)
            except Exception as error:  # a failed copy must not stop the others
                self._drop("failed")
                self._log(error)
        self._close(self.loaded)

    def _run(self, copy: _Copy) -> None:
        if self._quiet(copy):
            (found,) = self.loaded.model.predict([copy.text])
            self._compare(copy, found)
        elif not self._ending.is_set():
            self._drop("busy")

    def _quiet(self, copy: _Copy) -> bool:
        """Wait until the stable version is idle; return False if that takes too long or the runner ends."""
        while not self._idle():
            if time.monotonic() - copy.since > _PATIENCE or self._ending.wait(_IDLE_POLL):
                return False
        return time.monotonic() - copy.since <= _PATIENCE

    def _drop(self, reason: str) -> None:
        self._metrics.shadow_dropped.labels(*self._of, reason).inc()

    def _log(self, error: Exception) -> None:
        """Log each failure message once."""
        message = error.message if isinstance(error, NerveError) else repr(error)
        if message not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(message)
            unknown = not isinstance(error, NerveError)
            log.warning("%s/%s in the shadow: %s", *self._of, message, exc_info=unknown)

    def _compare(self, copy: _Copy, found: Prediction) -> None:
        ours, theirs = _spans(found.entities), _spans(copy.answer.entities)
        if ours == theirs:
            outcome = "same"
        elif {span[:2] for span in ours} == {span[:2] for span in theirs}:
            outcome = "same_spans"
        else:
            outcome = "different"
        of = (*self._of, str(copy.stable))
        for found_by, spans in (
            ("both", ours & theirs),
            ("stable_only", theirs - ours),
            ("shadow_only", ours - theirs),
        ):
            for _, _, label in spans:
                self._metrics.shadow_entities.labels(*of, label, found_by).inc()
        self._metrics.shadow_texts.labels(*of, outcome).inc()


def _spans(entities: Sequence[Entity]) -> set[tuple[int, int, str]]:
    return {(entity.start, entity.end, entity.label) for entity in entities}


@dataclass(frozen=True)
class Comparison:
    """Holds how a shadow compares with one stable version, on the copies that it ran.

    Attributes:
        texts: how many texts were compared.
        same: how many of them have the same entities.
        same_spans: how many of them have the same spans, whatever the labels.
        dropped: how many copies were not run, whichever version was stable.
        f1: the F1 of the shadow's entities, the stable version's taken as right; 1 if neither found any.
        f1_by_label: the same for each label that either version found.
    """

    texts: int
    same: int
    same_spans: int
    dropped: int
    f1: float
    f1_by_label: dict[str, float]


def comparison(metrics: Metrics, name: str, version: int, stable: int | None) -> Comparison:
    """Sum up what all workers have counted for a shadow since this server started.

    Args:
        stable: the version to compare with; None if no version is stable, so that nothing is compared.
    """
    texts, dropped = Counter[str](), 0
    entities: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sample in metrics.samples(_TEXTS, _ENTITIES, _DROPPED, model=name, version=str(version)):
        labels, count = sample.labels, int(sample.value)
        if sample.name == _DROPPED:
            dropped += count
        elif labels["stable"] == str(stable):
            counts = texts if sample.name == _TEXTS else entities[labels["label"]]
            counts[labels["outcome"]] += count
    return Comparison(
        texts=texts.total(),
        same=texts["same"],
        same_spans=texts["same"] + texts["same_spans"],
        dropped=dropped,
        f1=_f1(sum(entities.values(), Counter())),
        f1_by_label={label: _f1(entities[label]) for label in sorted(entities)},
    )


def _f1(counts: Counter[str]) -> float:
    both, every = counts["both"], counts.total()
    return 2 * both / (both + every) if every else 1.0
