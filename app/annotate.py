"""Annotate: texts in, their entities out, whatever protocol they come by.

A `Service` leases a version for each caller, and an `Annotator` is that version together with what its
caller wants of it. Whoever has loaded a version without a service, as a corpus does, makes an annotator of
it: submitting, checking labels and filtering are the same.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from app.engine.decoding.entities import Prediction
from app.errors import FAULTS, NerveError, Unprocessable
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.rollout.manager import VersionManager
from app.versions.rollout.registry import Lease

Wait = Callable[["Future[list[Prediction]]"], Awaitable[list[Prediction]]]
"""How a caller waits for predictions. Nobody wants what it gives up: it cancels the future then."""

_SHORT = 512
"""Characters of a text that may be annotated while its caller's event loop waits: some milliseconds."""

_AT_ONCE = 64
"""Texts that are filtered and counted before other requests have a turn: about a millisecond of an
article's length each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entities a caller wants.

    Attributes:
        labels: only entities of these; None for all.
        min_score: only entities whose score reaches this and their label's threshold.
    """

    labels: Sequence[str] | None = None
    min_score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Wanted):
    """What a request asks. A protocol that must remember more until it answers extends it.

    Attributes:
        texts: what to annotate; empty where the texts come later, as a stream's do.
        model: its name; None for the server's default.
        version: the one that is pinned; None for the one that serves.
    """

    texts: Sequence[str] = ()
    model: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What was found.

    Attributes:
        model, version: what answered all of it.
        texts: as they were asked.
        predictions: of each text, with the entities that are wanted.
    """

    model: str
    version: int
    texts: Sequence[str]
    predictions: Sequence[Prediction]


class Annotator:
    """A loaded version and what one caller wants of it. Many texts may be in flight at a time.

    Args:
        loaded: the version; whoever loaded it closes it.
    """

    def __init__(self, loaded: LoadedVersion, wanted: Wanted):
        self.manifest = loaded.manifest
        self._loaded = loaded
        self._wanted = wanted

    @property
    def failing(self) -> bool:
        """Whether the version's batches keep failing, so that it will not answer again."""
        return self._loaded.model.failing

    def check_labels(self) -> None:
        """Raises Unprocessable for a wanted label that the version does not have."""
        check_labels(self._wanted.labels, self.manifest.labels)

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """All entities of each text, those that are not wanted too. Cancelling the future drops what has
        not run.

        Args:
            deadline: when nobody waits any more, on the clock of `time.monotonic()`.
        """
        return self._loaded.model.submit(texts, deadline)

    def kept(self, found: Sequence[Prediction]) -> Sequence[Prediction]:
        """The predictions with the entities that are wanted."""
        least = self._wanted.min_score
        if self._wanted.labels is None:
            if least <= 0:
                return found
            return [
                Prediction(tuple(e for e in one.entities if e.score >= least), one.windows) for one in found
            ]
        labels = frozenset(self._wanted.labels)
        return [
            Prediction(
                tuple(e for e in one.entities if e.score >= least and e.label in labels), one.windows
            )
            for one in found
        ]


class LeasedAnnotator(Annotator):
    """An annotator of a service: `with await service.lease(ask) as annotator`.

    Its lease ends with the block. What `annotate` took, and whether it failed, is what a canary is judged
    by; texts that are submitted one group after another say nothing of a request's latency.

    Attributes:
        of: the model and the version, as metrics are labelled.
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
        """Annotate a request's texts. Where there are many, other requests have their turn in between.

        Args:
            deadline: when the request is given up, on the clock of `time.monotonic()`; whoever waits sees
                to it.
            may_hold: asked before a short text is annotated on the caller's own event loop, which saves
                waking other threads.

        Raises:
            Unprocessable: the version does not have a label that is wanted.
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
        for first in range(0, len(texts), _AT_ONCE):
            if first:
                await asyncio.sleep(0)
            some = self.kept(found[first : first + _AT_ONCE])
            self._metrics.answered(*self.of, some)
            kept += some
        return Annotation(self.manifest.name, self.manifest.version, texts, kept)

    def answered(
        self, texts: Sequence[str], found: Sequence[Prediction], kept: Sequence[Prediction]
    ) -> None:
        """Texts that were submitted are answered: shadows may have copies of them, and they count.

        Args:
            found, kept: of each text all entities, and those that are wanted.
        """
        self._manager.shadow(self._loaded, texts, found)
        self._metrics.answered(*self.of, kept)


class Service:
    """Annotates with the versions that a manager serves.

    Args:
        default_model: the name of the model where a request names none.
    """

    def __init__(self, manager: VersionManager, metrics: Metrics, default_model: str):
        self._manager = manager
        self._metrics = metrics
        self._default_model = default_model

    async def lease(
        self, ask: Ask, metadata: Callable[[str], str | None] = lambda name: None
    ) -> LeasedAnnotator:
        """The version that answers a request, until the end of the block that it is entered for.

        Args:
            metadata: what the protocol knows of the request under a name, such as a header of HTTP; a
                canary may stick to it.

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
            await asyncio.to_thread(self._manager.load_pinned, name, ask.version)
            # Others may have pinned something else by now, and so it is asked for again.
        return LeasedAnnotator(lease, ask, self._manager, self._metrics)


def check_labels(wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raises Unprocessable for a label that a model does not have."""
    for label in wanted or ():
        if label not in known:
            raise Unprocessable(
                f"labels: the model has no label {label!r} (it has {', '.join(known)})",
                "unknown_label",
            )


def _is_fault(error: BaseException, deadline: float | None) -> bool:
    """Whether it is the server's fault that a request was not answered."""
    if isinstance(error, NerveError):
        return error.kind in FAULTS
    if isinstance(error, asyncio.CancelledError):  # given up at the deadline, or with the server
        return deadline is not None and time.monotonic() >= deadline
    return isinstance(error, Exception)
