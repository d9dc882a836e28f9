"""Manager: gives requests leases on versions, and follows the desired state."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Literal

from app.engine.decoding.entities import Prediction
from app.errors import NerveError, NotReady
from app.manifest import Manifest
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.options import LoadOptions
from app.versions.loading.outcomes import Checker
from app.versions.rollout.canary import chosen
from app.versions.rollout.crew import Crew, aside
from app.versions.rollout.reconciler import Reconciler
from app.versions.rollout.registry import Lease
from app.versions.rollout.store import DeploymentStore
from app.versions.rollout.workers import Workers
from app.versions.storage.repository import Repository, RepositoryUnreadable

log = logging.getLogger("nerve.lifecycle")

_FIRST_WAIT = 10
"""Seconds that all others wait for the first model, and checks of new versions for all models, when they
start. Work beside it would make the server ready later and disturb the timings that are taken while a
version loads."""

_FOLLOWED = 32
"""Models that may be brought to their desired state at a time; most wait for a turn to check or load."""

_CHECKED = 2
"""Versions that nobody has asked for yet and that may be checked at a time."""

_CLOSING = 10.0
"""Seconds that the end waits for what is being loaded or checked."""

State = Literal["found", "unchecked", "ready", "loaded", "serving", "canary", "shadow", "refused"]


_REASONED: frozenset[State] = frozenset({"refused", "unchecked"})


@dataclass(frozen=True)
class VersionStatus:
    """Holds what is known of one version.

    Attributes:
        state: `found` (not checked yet), `unchecked` (a check came to no outcome, and is repeated), `ready`
            (passed its checks), `serving`, `canary`, `shadow`, `loaded` (for requests that pin it), or
            `refused`.
        reason: why it was refused, or could not be checked.
        loaded: the version while it is loaded.
    """

    name: str
    version: int
    state: State
    reason: str | None = None
    manifest: Manifest | None = None
    loaded: LoadedVersion | None = None


class VersionManager:
    """Serves the versions of one models folder, from `start` to `close`.

    Args:
        repository: the models folder.
        store: the desired state.
        options: how versions are run here.
        metrics: where loads and batches are counted.
        max_pinned: how many versions of a model are kept loaded only because requests pin them.
        poll_seconds: seconds between two readings of folder and state. Polling works on every kind of
            volume, where watching does not.
        first: the model that is loaded before all others.
    """

    def __init__(
        self,
        repository: Repository,
        store: DeploymentStore,
        options: LoadOptions,
        metrics: Metrics,
        max_pinned: int = 4,
        poll_seconds: float = 0.5,
        first: str | None = None,
    ):
        self.repository = repository
        self.store = store
        self.workers = Workers(store.folder)
        self._poll_seconds = poll_seconds
        self._first = first
        self._checker = Checker(repository, options, metrics)
        self._reconciler = Reconciler(
            repository, store, self._checker, metrics, max_pinned, self._report, first
        )
        self._registry = self._reconciler.holdings.registry
        self.operations = self._reconciler.operations
        self._known: list[str] = []
        self._pins: dict[tuple[str, int], Future[None]] = {}
        self._lock = threading.Lock()  # guards `_pins`, for moments
        self._reporting = threading.Lock()
        self._stop = threading.Event()
        self._followers = Crew("reconcile", _FOLLOWED)
        self._checkers = Crew("check", _CHECKED)
        self._thread = threading.Thread(target=self._run, name="lifecycle", daemon=True)

    def start(self) -> None:
        """Start to follow the desired state of every model and to check new versions, on other threads."""
        self._thread.start()

    def close(self) -> None:
        """End the threads and close every version; call it when no request runs any more.

        What is loaded just now is waited for some seconds only, in case it never ends.
        """
        self._stop.set()
        self._checker.stop()
        self._reconciler.end()
        self._followers.close(_CLOSING)
        self._checkers.close(_CLOSING)
        if self._thread.is_alive():
            self._thread.join()
        self._reconciler.holdings.close()
        self.workers.remove()

    # requests

    def lease(
        self,
        name: str,
        version: int | None = None,
        key: Callable[[str], str | None] = lambda sticky: None,
    ) -> Lease | None:
        """Return a lease for one request: on the pinned version, else on the canary or the stable one.

        Args:
            key: maps what a canary sticks to (`Canary.sticky`) to the request's value of it.

        Returns:
            None for a pinned version that is not loaded: see `pinning`.

        Raises:
            NotFound: unknown model. NotReady: nothing serves under this name yet.
        """
        if version is not None:
            return self._registry.lease(name, version)
        tryout, lease = self._registry.tryout(name), None
        watch = tryout.watch if tryout else None
        if tryout:
            sticky = tryout.canary.sticky
            if chosen(tryout.canary, name, key(sticky) if sticky else None):
                lease = self._registry.lease(name, tryout.canary.version, watch, by_canary=True)
        lease = lease or self._registry.lease(name, watch=watch)
        if lease is None:
            problem = self.problem(name) or "it is still being loaded"
            try:
                self.repository.require(name)
            except RepositoryUnreadable as error:
                problem = error.message
            raise NotReady(f"{name}: no version serves: {problem}")
        return lease

    def load_pinned(self, name: str, version: int) -> None:
        """Load a version that a request pins; the least recently used pinned one makes room.

        Raises:
            NotFound: there is no such version. VersionRefused: it fails its checks. NotReady: it could not
                be checked.
        """
        self._reconciler.pin(name, version)

    def pinning(self, name: str, version: int) -> "Future[None]":
        """Return a future of `load_pinned`, which is not to be cancelled: all who wait for it share it."""
        key = name, version
        with self._lock:
            future = self._pins.get(key)
            if future is None:
                future = self._pins[key] = aside(partial(self.load_pinned, name, version))
                future.add_done_callback(lambda _: self._pins.pop(key, None))
            return future

    def shadow(
        self, loaded: LoadedVersion, texts: Sequence[str], predictions: Sequence[Prediction]
    ) -> None:
        """Offer an answered request to the model's shadows, and return at once.

        Args:
            loaded: the version that answered; unless it is the stable one, nothing is copied.
        """
        name = loaded.manifest.name
        shadows = self._reconciler.holdings.shadows.get(name)
        if shadows and loaded is self._registry.get(name):
            for shadow in list(shadows.values()):
                shadow.offer(texts, predictions, loaded)

    # status

    def names(self) -> list[str]:
        """Return the models that are in the folder or loaded, sorted.

        If the folder cannot be read now, they are the last known.
        """
        try:
            self._known = self.repository.names()
        except RepositoryUnreadable as error:
            log.debug("%s", error.message)  # each model's problem says so
        return sorted({*self._known, *self._registry.names()})

    def model_status(self, name: str) -> list[VersionStatus]:
        """Return every version of a model that is in the folder or loaded, ascending.

        Raises:
            NotFound: there is no such model.
        """
        checks, here = self._checker.outcomes(name), self._registry.loaded(name)
        runners = list(self._reconciler.holdings.shadows.get(name, {}).items())
        shadows = {version: runner.loaded for version, runner in runners}
        stable, canary = self._registry.get(name), self._registry.canary(name)
        try:
            versions = sorted({*self.repository.versions(name), *here, *shadows})
        except RepositoryUnreadable:  # `problem` says so
            versions = sorted({*checks, *here, *shadows})
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
                state = "refused" if check.refused else "unchecked" if check.undecided else "ready"
            manifest = loaded.manifest if loaded else check.manifest if check else None
            reason = check.refused or check.undecided if check and state in _REASONED else None
            result.append(VersionStatus(name, version, state, reason, manifest, loaded))
        return result

    def problem(self, name: str) -> str | None:
        """Say why the desired state is not reached, or cannot be read; None where all is well."""
        problem, stable = self._reconciler.problem(name), self._registry.get(name)
        if stable and stable.model.hung:
            hangs = f"{name}/{stable.manifest.version}: its session hangs"
            return f"{hangs}; {problem}" if problem else hangs
        return problem

    def ready(self, name: str) -> bool:
        """Say whether a model has a stable version that can answer."""
        stable = self._registry.get(name)
        return stable is not None and stable.model.alive

    # what the thread does again and again

    def reconcile(self) -> None:
        """Bring every model to its desired state, and report what this process serves."""
        self._follow()
        self._followers.join()
        self._report()

    def check(self) -> None:
        """Check versions that are new or have changed since their last check."""
        self._look_for_new()
        self._checkers.join()

    def refresh_queues(self) -> None:
        """Set the gauge of the waiting sub-tokens of each version; call it before metrics are rendered."""
        self._reconciler.holdings.gauges.refresh()

    def _run(self) -> None:
        begun, checking = time.monotonic(), False
        if self._first:
            self._followers.give(self._first, partial(self._care, self._first))
            self._followers.join(_FIRST_WAIT)
        while not self._stop.is_set():
            try:
                self._follow()
                done = self._followers.join(self._poll_seconds)
                self._report()
                self.refresh_queues()
                checking = checking or done or time.monotonic() - begun >= _FIRST_WAIT
                if checking:
                    self._look_for_new()
            except Exception:  # a broken disk must not end the thread
                log.exception("models and state cannot be followed")
            self._stop.wait(self._poll_seconds)

    def _follow(self) -> None:
        for name in sorted(self.names(), key=lambda name: name != self._first):
            self._followers.give(name, partial(self._care, name))

    def _look_for_new(self) -> None:
        for name in self.names():
            try:
                for version in self.repository.versions(name):
                    check = self._checker.current(name, version)
                    if check is None or check.undecided:
                        self._checkers.give((name, version), partial(self._try, name, version))
            except RepositoryUnreadable:  # `problem` says so
                continue

    def _try(self, name: str, version: int) -> None:
        try:
            self._checker.ensure(name, version)
        except NerveError as error:  # the checker keeps the reason, and an undecided check is repeated
            log.debug("%s/%d: %s", name, version, error.message)

    def _care(self, name: str) -> None:
        """Bring one model to its desired state, and note if that fails."""
        problem = None
        try:
            self._reconciler.reconcile(name)
        except Exception as error:
            reason = error.message if isinstance(error, NerveError) else repr(error)
            problem = f"could not be looked after: {reason}"
        self._reconciler.note(name, "reconcile", problem)

    def _report(self) -> None:
        """Write down for other processes what this one serves."""
        with self._reporting:
            try:
                self.workers.report(self._reconciler.reports(self.names()))
            except OSError as error:  # the report only informs others; requests are answered without it
                log.debug("%s cannot be written: %s", self.store.folder / "workers", error)
