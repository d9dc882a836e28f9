"""Annotate: finds the entities of texts, for every protocol.

A `Service` leases a version for each caller. An `Annotator` joins a version with the options of its caller.
Code that loads a version without a service, such as `nerve annotate`, makes an annotator directly.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.engine.decoding.entities import Entities, Entity, Prediction
from app.errors import FAULTS, NerveError, Unprocessable, shown
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.rollout.manager import VersionManager
from app.versions.rollout.registry import Lease

Wait = Callable[["Future[list[Prediction]]"], Awaitable[list[Prediction]]]
"""Waits for predictions, and cancels the future when it gives up."""

_SHORT = 512
"""Most characters of a text that may be annotated on the event loop, which it blocks for milliseconds."""

_AT_ONCE, _ENTITIES_AT_ONCE = 64, 10_000
"""Texts that are filtered and counted before other requests have a turn, about 1 ms for articles; fewer if
they have so many entities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Says which entities a caller wants.

    Attributes:
        labels: the labels of these entities; None stands for all.
        min_score: the least score, 0 to 1; an entity must reach its label's threshold too.
    """

    labels: Sequence[str] | None = None
    min_score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Wanted):
    """Holds what a request asks; a protocol adds fields by a subclass.

    Attributes:
        texts: the texts to annotate; empty for a stream, whose texts come later.
        model: the name of the model; None stands for the server's default.
        version: the pinned version; None stands for the one that serves.
    """

    texts: Sequence[str] = ()
    model: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """Holds the answer to a request.

    Attributes:
        model, version: the model and version that answered.
        texts: the texts of the request.
        predictions: the wanted entities of each text, in the order of the texts.
    """

    model: str
    version: int
    texts: Sequence[str]
    predictions: Sequence[Prediction]


class Annotator:
    """Annotates with a loaded version as one caller wants it.

    Args:
        loaded: the version; the code that loaded it closes it.
    """

    def __init__(self, loaded: LoadedVersion, wanted: Wanted):
        self.manifest = loaded.manifest
        self._loaded = loaded
        self._wanted = wanted
        self._labels = None if wanted.labels is None else frozenset(wanted.labels)
        self._least = wanted.min_score

    @property
    def failing(self) -> bool:
        """Say whether the version's batches keep failing, so that it will not answer again."""
        return self._loaded.model.failing

    def check_labels(self) -> None:
        """Raise Unprocessable for a wanted label that the version does not have."""
        check_labels(self._wanted.labels, self.manifest.labels)

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """Find all entities of each text, wanted or not. Cancelling the future drops rows not yet run.

        Args:
            deadline: the time on the clock of `time.monotonic()` at which the caller gives up.
        """
        return self._loaded.model.submit(texts, deadline)

    def kept(self, found: Sequence[Prediction]) -> Sequence[Prediction]:
        """Return the predictions with only the wanted entities."""
        if self._labels is None and self._least <= 0:
            return found
        return [Prediction(self._wanted_of(one.entities), one.windows) for one in found]

    def _wanted_of(self, entities: Sequence[Entity]) -> Sequence[Entity]:
        labels, least = self._labels, self._least
        if isinstance(entities, Entities):
            return entities.wanted(labels, least)
        return tuple(e for e in entities if e.score >= least and (labels is None or e.label in labels))


class LeasedAnnotator(Annotator):
    """Annotates for one request of a service: `with await service.lease(ask) as annotator`.

    The lease ends with the block. A canary is judged by the duration and failure of `annotate`, but not by
    texts that are given to `submit`, because groups of a stream say nothing of a request's latency.

    Attributes:
        of: the model and the version, the labels of its metrics.
    """

    def __init__(self, lease: Lease, wanted: Wanted, manager: VersionManager, metrics: Metrics):
        super().__init__(lease.loaded, wanted)
        self.of = self.manifest.name, str(self.manifest.version)
        self._lease = lease
        self._manager = manager
        self._metrics = metrics
        self._failed: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.release(self._failed)

    async def annotate(
        self,
        texts: Sequence[str],
        deadline: float | None = None,
        wait: Wait = asyncio.wrap_future,
        may_hold: Callable[[], bool] = lambda: False,
    ) -> Annotation:
        """Annotate the texts of a request. Between many texts, other requests have their turn.

        Args:
            deadline: the time on the clock of `time.monotonic()` at which `wait` gives up.
            may_hold: says whether a short text may be annotated on the event loop, which saves waking
                other threads.

        Raises:
            Unprocessable: the version does not have a wanted label.
            Busy, DeadlineExceeded, InferenceFailed, NotReady: see `app.errors`.
        """
        self.check_labels()
        try:
            found = None
            if len(texts) == 1 and len(texts[0]) <= _SHORT and may_hold():
                found = self._loaded.model.answer_now(texts)
            if found is None:
                found = await wait(self.submit(texts, deadline))
        except BaseException as error:
            self._failed = _is_fault(error, deadline) or None
            raise
        self._failed = False
        self._manager.shadow(self._loaded, texts, found)
        kept: list[Prediction] = []
        for turn in _turns(found):
            if kept:
                await asyncio.sleep(0)
            some = self.kept(turn)
            self._metrics.answered(*self.of, some)
            kept += some
        return Annotation(self.manifest.name, self.manifest.version, texts, kept)

    def answered(
        self, texts: Sequence[str], found: Sequence[Prediction], kept: Sequence[Prediction]
    ) -> None:
        """Count submitted texts as answered, and offer them to the model's shadows.

        Args:
            found, kept: each text's prediction with all entities, and with the wanted ones.
        """
        self._manager.shadow(self._loaded, texts, found)
        self._metrics.answered(*self.of, kept)


class Service:
    """Annotates with the versions that a manager serves.

    Args:
        default_model: the model of requests that name none.
    """

    def __init__(self, manager: VersionManager, metrics: Metrics, default_model: str):
        self._manager = manager
        self._metrics = metrics
        self._default_model = default_model

    async def lease(
        self, ask: Ask, metadata: Callable[[str], str | None] = lambda name: None
    ) -> LeasedAnnotator:
        """Lease the version that answers a request; the lease ends with the annotator's `with` block.

        Args:
            metadata: returns the request's value of a name, such as an HTTP header; a canary may stick
                to it.

        Raises:
            NotFound: unknown model or version. VersionRefused: the pinned version fails its checks.
            NotReady: nothing serves under this name yet.
        """
        name = ask.model or self._default_model

        def key(sticky: str) -> str | None:
            if sticky == "text":
                return "\0".join(ask.texts) if ask.texts else None
            return metadata(sticky)

        while (lease := self._manager.lease(name, ask.version, key)) is None:
            assert ask.version is not None  # only a pinned version may not be loaded
            pinning = self._manager.pinning(name, ask.version)
            await asyncio.shield(asyncio.wrap_future(pinning))  # others may wait for the same
            # Other requests may have pinned versions and pushed this one out, so the lease is retried.
        return LeasedAnnotator(lease, ask, self._manager, self._metrics)


def _turns(found: Sequence[Prediction]) -> Iterator[Sequence[Prediction]]:
    """Yield as many predictions as are filtered and counted at a time."""
    first, entities = 0, 0
    for end, prediction in enumerate(found):
        if end - first == _AT_ONCE or entities > _ENTITIES_AT_ONCE:
            yield found[first:end]
            first, entities = end, 0
        entities += len(prediction.entities)
    if first < len(found):
        yield found[first:]


def check_labels(wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raise Unprocessable for a label that a model does not have."""
    for label in wanted or ():
        if label not in known:
            raise Unprocessable(
                f"labels: the model has no label {shown(label)} (it has {', '.join(known)})",
                "unknown_label",
            )


def _is_fault(error: BaseException, deadline: float | None) -> bool:
    """Say whether a request failed by the server's fault."""
    if isinstance(error, NerveError):
        return error.kind in FAULTS
    if isinstance(error, asyncio.CancelledError):  # at the deadline, or at the server's shutdown
        return deadline is not None and time.monotonic() >= deadline
    return isinstance(error, Exception)
