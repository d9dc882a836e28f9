"""Manager: gives requests leases on versions, and follows the desired state."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from app.engine.decoding.entities import Prediction
from app.errors import NerveError, NotReady
from app.manifest import Manifest
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.options import LoadOptions
from app.versions.loading.outcomes import Checker
from app.versions.rollout.canary import chosen
from app.versions.rollout.reconciler import Reconciler
from app.versions.rollout.registry import Lease
from app.versions.rollout.store import DeploymentStore
from app.versions.rollout.workers import Workers
from app.versions.storage.repository import Repository

log = logging.getLogger("nerve.lifecycle")

_FIRST_WAIT = 10
"""Seconds that checks of new versions wait for the first reconciliation. Checks beside it would make the
server ready later and disturb the timings that are taken while a version loads."""

State = Literal["found", "ready", "loaded", "serving", "canary", "shadow", "refused"]


@dataclass(frozen=True)
class VersionStatus:
    """Holds what is known of one version.

    Attributes:
        state: `found` (not checked yet), `ready` (passed its checks), `serving`, `canary`, `shadow`,
            `loaded` (for requests that pin it), or `refused`.
        reason: why it was refused.
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
        self._poll_seconds = poll_seconds
        self._checker = Checker(repository, options, metrics)
        self._reconciler = Reconciler(repository, store, self._checker, metrics, max_pinned, self._report)
        self._registry = self._reconciler.holdings.registry
        self.operations = self._reconciler.operations
        self._stop = threading.Event()
        self._reconciled = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._repeat, args=(act,), name=f"lifecycle-{act.__name__}", daemon=True
            )
            for act in (self.reconcile, self.check)
        ]

    def start(self) -> None:
        """Start two threads: one follows the desired state, one checks new versions."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads and close every version; call it when no request runs any more."""
        self._stop.set()
        self._reconciled.set()
        self._checker.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
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
            None for a pinned version that is not loaded: see `load_pinned`.

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
            self.repository.require(name)
            problem = self.problem(name) or "it is still being loaded"
            raise NotReady(f"{name}: no version serves: {problem}")
        return lease

    def load_pinned(self, name: str, version: int) -> None:
        """Load a version that a request pins; the least recently used pinned one makes room.

        Raises:
            NotFound: there is no such version. VersionRefused: it fails its checks.
        """
        self._reconciler.pin(name, version)

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
        """Return the models that are in the folder or loaded, sorted."""
        return sorted({*self.repository.names(), *self._registry.names()})

    def model_status(self, name: str) -> list[VersionStatus]:
        """Return every version of a model that is in the folder or loaded, ascending.

        Raises:
            NotFound: there is no such model.
        """
        checks, here = self._checker.outcomes(name), self._registry.loaded(name)
        runners = list(self._reconciler.holdings.shadows.get(name, {}).items())
        shadows = {version: runner.loaded for version, runner in runners}
        stable, canary = self._registry.get(name), self._registry.canary(name)
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
        """Say why the desired state is not reached, or cannot be read; None where all is well."""
        return self._reconciler.problem(name)

    def ready(self, name: str) -> bool:
        """Say whether a model has a stable version that can answer."""
        stable = self._registry.get(name)
        return stable is not None and stable.model.alive

    # repeated by the threads

    def reconcile(self) -> None:
        """Bring every model to its desired state, and report what this process serves."""
        for name in self.names():
            self._care(name, "reconcile", self._reconciler.reconcile)
        self._reconciled.set()
        self._report()
        self.refresh_queues()

    def check(self) -> None:
        """Check versions that are new or have changed since their last check."""
        self._reconciled.wait(_FIRST_WAIT)
        for name in self.names():
            self._care(name, "check", self._check_changed)

    def refresh_queues(self) -> None:
        """Set the gauge of the waiting sub-tokens of each version; call it before metrics are rendered."""
        self._reconciler.holdings.gauges.refresh()

    def _check_changed(self, name: str) -> None:
        for version in self.repository.versions(name):
            if self._stop.is_set():
                return
            try:
                self._checker.ensure(name, version)
            except NerveError:  # the checker keeps the reason, and an undecided check is repeated
                continue

    def _care(self, name: str, source: str, act: Callable[[str], None]) -> None:
        """Run `act` for one model and note its failure, which must not stop the other models."""
        if self._stop.is_set():
            return
        try:
            act(name)
        except Exception as error:
            self._reconciler.note(name, source, f"could not be looked after: {error!r}")
        else:
            self._reconciler.note(name, source, None)

    def _repeat(self, act: Callable[[], None]) -> None:
        while True:
            try:
                act()
            except Exception:  # a broken disk must not end the thread
                log.exception("models and state cannot be followed")
            if self._stop.wait(self._poll_seconds):
                return

    def _report(self) -> None:
        """Write down for other processes what this one serves."""
        with self._reconciler.changing:
            try:
                self.workers.report({name: self._reconciler.report(name) for name in self.names()})
            except OSError as error:  # the report only informs others; requests are answered without it
                log.debug("%s cannot be written: %s", self.store.folder / "workers", error)
