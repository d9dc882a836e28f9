"""Manager: lends versions to requests, and brings what is served to what should be served."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from app.engine.decoding.entities import Prediction
from app.errors import NerveError, NotReady
from app.manifest import Manifest
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.options import LoadOptions
from app.versions.loading.outcomes import Checker
from app.versions.rollout.canary import CanaryWatch, chosen
from app.versions.rollout.desired import DeploymentStore
from app.versions.rollout.reconciler import Reconciler
from app.versions.rollout.registry import Lease as Held
from app.versions.rollout.registry import Registry
from app.versions.rollout.workers import ModelReport, Workers
from app.versions.storage.repository import Repository

log = logging.getLogger("nerve.lifecycle")

_FIRST_LOOK = 10
"""Seconds after which other versions are tried though what serves at first is still being loaded: both at
once would make the server ready later, and disturb what is measured at load."""

State = Literal["found", "ready", "loaded", "serving", "canary", "shadow", "refused"]


@dataclass(frozen=True)
class VersionStatus:
    """What is known of one version.

    Attributes:
        state: `found` (not checked yet), `ready` (passed its checks), `serving`, `canary`, `shadow`,
            `loaded` (for requests that pin it), or `refused`.
        reason: why it was refused.
        loaded: the version itself while it is loaded.
    """

    name: str
    version: int
    state: State
    reason: str | None = None
    manifest: Manifest | None = None
    loaded: LoadedVersion | None = None


class Lease:
    """The right to use a loaded version for one request."""

    def __init__(self, shelf: Registry, held: Held, watch: CanaryWatch | None, by_canary: bool):
        self.loaded = held.loaded
        self._shelf, self._held = shelf, held
        self._watch, self._by_canary = watch, by_canary
        self._started = time.perf_counter()

    def release(self, failed: bool | None = None) -> None:
        """End it.

        Args:
            failed: whether the server failed the request; None where that says nothing of a canary.
        """
        self._shelf.give_back(self._held)
        if self._watch and failed is not None:
            self._watch.record(self._by_canary, time.perf_counter() - self._started, failed)


class VersionManager:
    """Serves the versions of one models folder. `start` begins, `close` ends.

    Args:
        repository: the models folder.
        store: the desired state.
        options: how versions are run here.
        metrics: where loads and batches are counted.
        max_pinned: versions kept loaded only because requests pin them.
        poll_seconds: how often folder and state are looked at. They are polled and not watched:
            that works on every volume, and a look that was missed is made up by the next.
    """

    def __init__(
        self,
        repository: Repository,
        store: DeploymentStore,
        options: LoadOptions,
        metrics: Metrics,
        max_pinned: int = 4,
        poll_seconds: float = 0.5,
    ):
        self.repository = repository
        self.store = store
        self.workers = Workers(store.folder)
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._told: set[tuple[str, str]] = set()
        self._checker = Checker(repository, options, metrics)
        self._roles = Reconciler(repository, store, self._checker, metrics, max_pinned, self._tell)
        self.operations = self._roles.operations
        self._stop = threading.Event()
        self._looked = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._repeat, args=(look,), name=f"lifecycle-{look.__name__}", daemon=True
            )
            for look in (self.converge, self.check)
        ]

    def start(self) -> None:
        """Begin to converge and to check what is new, on threads of their own."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop converging and close every version; call it when no request runs any more."""
        self._stop.set()
        self._looked.set()
        self._checker.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._roles.close()
        self.workers.withdraw()

    # requests

    def lease(
        self,
        name: str,
        version: int | None = None,
        key: Callable[[str], str | None] = lambda sticky: None,
    ) -> Lease | None:
        """A version to answer one request with: the one that is pinned, else the canary or the stable one.

        Args:
            key: given what a canary sticks to, what the request has of it.

        Returns:
            None for a pinned version that is not loaded: see `load_pinned`.

        Raises:
            NotFound: unknown model. NotReady: nothing serves under this name yet.
        """
        shelf, tryout = self._roles.shelf, self._roles.tryouts.get(name) if version is None else None
        lease = None
        if tryout:
            sticky = tryout.canary.sticky
            if chosen(tryout.canary, name, key(sticky) if sticky else None):
                lease = shelf.lend(name, tryout.canary.version)
        by_canary = lease is not None
        lease = lease or shelf.lend(name, version)
        if lease:
            return Lease(shelf, lease, tryout.watch if tryout else None, by_canary)
        if version is None:
            self.repository.require(name)
            problem = self.problem(name) or "it is still being loaded"
            raise NotReady(f"{name}: no version serves: {problem}")
        return None

    @contextmanager
    def leased(self, name: str, version: int | None = None) -> Iterator[LoadedVersion]:
        """As `lease`, for callers that may wait: a pinned version that is not loaded is.

        Raises:
            NotFound: unknown model or version. VersionRefused: the pinned version fails its checks.
            NotReady: nothing serves under this name yet.
        """
        while (lease := self.lease(name, version)) is None:
            assert version is not None
            self.load_pinned(name, version)
        try:
            yield lease.loaded
        finally:
            lease.release()

    def load_pinned(self, name: str, version: int) -> None:
        """Load a version that a request pins; the least recently used one makes room.

        Raises:
            NotFound: there is none. VersionRefused: it fails its checks.
        """
        self._roles.pin(name, version)

    def shadow(self, served: LoadedVersion, texts: Sequence[str], answers: Sequence[Prediction]) -> None:
        """Let shadows have a copy of a request that was answered by the stable version. Returns at once."""
        name = served.manifest.name
        shadows = self._roles.shadows.get(name)
        if shadows and served is self._roles.shelf.get(name):
            for shadow in list(shadows.values()):
                shadow.offer(texts, answers, served)

    def refresh_queues(self) -> None:
        """Tell how much waits for each version that is loaded in this process."""
        waiting: Counter[tuple[str, str]] = Counter(dict.fromkeys(self._told, 0))
        for name in self._roles.shelf.names():
            for loaded in self._roles.shelf.loaded(name).values():
                waiting[name, str(loaded.manifest.version)] += loaded.model.waiting_tokens
        for of, tokens in waiting.items():
            self._metrics.queue_tokens.labels(*of).set(tokens)
        self._told = {of for of, tokens in waiting.items() if tokens}

    # status

    def names(self) -> list[str]:
        """Models that lie in the folder or are loaded, sorted."""
        return sorted({*self.repository.names(), *self._roles.shelf.names()})

    def model_status(self, name: str) -> list[VersionStatus]:
        """Every version of one model that lies in the folder or is loaded, ascending.

        Raises:
            NotFound: there is no such model.
        """
        shelf = self._roles.shelf
        checks, here = self._checker.outcomes(name), shelf.loaded(name)
        runners = list(self._roles.shadows.get(name, {}).items())
        shadows = {version: runner.loaded for version, runner in runners}
        stable, canary = shelf.get(name), shelf.canary(name)
        versions = sorted({*self.repository.versions(name), *here, *shadows})
        if not versions:
            self.repository.require(name)
        result = []
        for version in versions:
            check, loaded = checks.get(version), here.get(version) or shadows.get(version)
            state: State = "found"
            if loaded and loaded is stable:
                state = "serving"
            elif version == canary:
                state = "canary"
            elif version in shadows:
                state = "shadow"
            elif loaded:
                state = "loaded"
            elif check:
                state = "refused" if check.refused else "ready"
            manifest = loaded.manifest if loaded else check.manifest if check else None
            reason = check.refused if check and state == "refused" else None
            result.append(VersionStatus(name, version, state, reason, manifest, loaded))
        return result

    def problem(self, name: str) -> str | None:
        """Why what should serve does not, or cannot be known."""
        return self._roles.problem(name)

    def ready(self, name: str) -> bool:
        """Whether a model has a stable version that can answer."""
        stable = self._roles.shelf.get(name)
        return stable is not None and stable.model.alive

    # looks

    def converge(self) -> None:
        """One look at the desired state of every model."""
        for name in self.names():
            self._look(name, "look", self._roles.converge)
        self._looked.set()
        self._tell()
        self.refresh_queues()

    def check(self) -> None:
        """Try versions that are new or have changed since they were tried."""
        self._looked.wait(_FIRST_LOOK)
        for name in self.names():
            self._look(name, "check", self._check_changed)

    def _check_changed(self, name: str) -> None:
        for version in self.repository.versions(name):
            if self._stop.is_set():
                return
            try:
                self._checker.ensure(name, version)
            except NerveError:  # remembered, or to be tried by the next look
                continue

    def _look(self, name: str, kind: str, look: Callable[[str], None]) -> None:
        if self._stop.is_set():
            return
        try:
            look(name)
        except Exception as error:  # one model's trouble is not another's
            self._roles.note(name, kind, f"could not be looked after: {error!r}")
        else:
            self._roles.note(name, kind, None)

    def _repeat(self, look: Callable[[], None]) -> None:
        while True:
            try:
                look()
            except Exception:  # a broken disk must not end the watching
                log.exception("could not look at models and state")
            if self._stop.wait(self._poll_seconds):
                return

    def _tell(self) -> None:
        """Report what this process serves."""
        roles = self._roles
        with roles.changing:
            models = {}
            for name in self.names():
                stable = roles.shelf.get(name)
                models[name] = ModelReport(
                    generation=roles.generations.get(name, 0),
                    stable=stable.manifest.version if stable else None,
                    canary=roles.shelf.canary(name),
                    shadow=tuple(roles.shadows.get(name, {})),
                    problem=roles.problem(name),
                )
            try:
                self.workers.report(models)
            except OSError as error:  # others cannot see it, requests are answered all the same
                log.debug("%s cannot be written: %s", self.store.folder / "workers", error)
