"""Manager: brings what is served to what should be served."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from app.errors import NerveError, NotFound, NotReady, VersionRefused
from app.lifecycle.checks import Checker
from app.lifecycle.deployment import Deployment, DeploymentStore, StateUnreadable
from app.lifecycle.loading import LoadedVersion, LoadOptions
from app.lifecycle.repository import Repository
from app.lifecycle.shelf import Shelf
from app.manifest import Manifest
from app.metrics import Metrics

log = logging.getLogger("nerve.lifecycle")

State = Literal["found", "ready", "loaded", "serving", "refused"]


@dataclass(frozen=True)
class VersionStatus:
    """What is known of one version.

    Attributes:
        state: `found` (not checked yet), `ready` (passed its checks), `loaded` (for requests that
            pin it), `serving`, or `refused`.
        reason: why it was refused.
        loaded: the version itself while it is loaded.
    """

    name: str
    version: int
    state: State
    reason: str | None = None
    manifest: Manifest | None = None
    loaded: LoadedVersion | None = None


class ModelManager:
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
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._checker = Checker(repository, options, metrics)
        self._shelf = Shelf(max_pinned, self._close)
        self._problems: dict[str, str] = {}
        self._changing = threading.RLock()  # one load or swap at a time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lifecycle", daemon=True)

    def start(self) -> None:
        """Begin to converge, on a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop converging and close every version; call it when no request runs any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._shelf.clear()

    # requests

    @contextmanager
    def lease(self, name: str, version: int | None = None) -> Iterator[LoadedVersion]:
        """A version to answer one request with: the stable one, or the one that is pinned.

        Blocks to load a pinned version that is not; ask `has` first where blocking would hurt.

        Raises:
            NotFound: unknown model or version. VersionRefused: the pinned version fails its checks.
            NotReady: nothing serves under this name yet.
        """
        lease = self._shelf.lend(name, version)
        while lease is None and version is not None:
            self.load_pinned(name, version)
            lease = self._shelf.lend(name, version)
        if lease is None:
            self.repository.require(name)
            problem = self.problem(name) or "it is still being loaded"
            raise NotReady(f"{name}: no version serves: {problem}")
        try:
            yield lease.loaded
        finally:
            self._shelf.give_back(lease)

    def has(self, name: str, version: int | None) -> bool:
        """Whether `lease` would return at once."""
        return version is None or self._shelf.get(name, version) is not None

    def load_pinned(self, name: str, version: int) -> None:
        """Load a version that a request pins; the least recently used one makes room.

        Raises:
            NotFound: there is none. VersionRefused: it fails its checks.
        """
        self.repository.path(name, version)
        check = self._checker.current(name, version)
        if check and check.refused:
            raise VersionRefused(check.refused)
        with self._changing:
            if not self._shelf.get(name, version):
                self._shelf.pin(self._open(name, version))

    # operators

    def names(self) -> list[str]:
        """Models that lie in the folder or are loaded, sorted."""
        return sorted({*self.repository.names(), *self._shelf.names()})

    def deployment(self, name: str) -> Deployment:
        """The desired state of a model.

        Raises:
            NotFound: there is no such model. StateUnreadable: its file is torn.
        """
        if not self._shelf.get(name):
            self.repository.require(name)
        return self.store.read(name) or Deployment()

    def activate(self, name: str, version: int) -> Deployment:
        """Make a version the one that serves, if it passes its checks.

        Raises:
            NotFound: there is no such version.
            VersionRefused: it fails its checks; nothing changed.
            StateUnreadable, StateUnwritable: nothing changed either.
        """
        with self._changing:
            self.repository.path(name, version)
            here = self._shelf.get(name, version)
            try:
                loaded = here or self._open(name, version)
            except VersionRefused:
                self._metrics.swaps.labels(name, "refused").inc()
                raise
            try:
                deployment = self.store.edit(name, lambda d: d.with_stable(version))
            except BaseException:
                if not here:
                    self._close(loaded)
                raise
            self._serve(loaded)
            self._problems.pop(name, None)
            return deployment

    def rollback(self, name: str) -> Deployment:
        """Make the previous stable version the one that serves again.

        Raises:
            NotFound: unknown model. VersionRefused: there is no previous version, or it fails.
        """
        with self._changing:
            previous = self.deployment(name).previous
            if previous is None:
                raise VersionRefused(f"{name}: no version served before", "no_previous_version")
            return self.activate(name, previous)

    def model_status(self, name: str) -> list[VersionStatus]:
        """Every version of one model that lies in the folder or is loaded, ascending.

        Raises:
            NotFound: there is no such model.
        """
        checks, here = self._checker.outcomes(name), self._shelf.loaded(name)
        stable = self._shelf.get(name)
        versions = sorted({*self.repository.versions(name), *here})
        if not versions:
            self.repository.require(name)
        result = []
        for version in versions:
            check, loaded = checks.get(version), here.get(version)
            state: State = "found"
            if loaded:
                state = "serving" if loaded is stable else "loaded"
            elif check:
                state = "refused" if check.refused else "ready"
            manifest = loaded.manifest if loaded else check.manifest if check else None
            reason = check.refused if check else None
            result.append(VersionStatus(name, version, state, reason, manifest, loaded))
        return result

    def problem(self, name: str) -> str | None:
        """Why what should serve does not, or cannot be known."""
        return self._problems.get(name)

    def ready(self, name: str) -> bool:
        """Whether a model has a stable version that can answer."""
        stable = self._shelf.get(name)
        return stable is not None and stable.predictor.alive

    # convergence

    def converge(self) -> None:
        """One look at folder and state: load what should serve, then check what is new."""
        names = self.repository.names()
        for look in (self._converge_model, self._check_changed):
            for name in names:
                if self._stop.is_set():
                    return
                try:
                    look(name)
                except Exception as error:  # one model's trouble is not another's
                    self._report(name, f"could not be looked after: {error!r}")

    def _watch(self) -> None:
        while True:
            try:
                self.converge()
            except Exception:  # a broken disk must not end the watching
                log.exception("could not look at models and state")
            if self._stop.wait(self._poll_seconds):
                return

    def _converge_model(self, name: str) -> None:
        with self._changing:
            stable = self._shelf.get(name)
            serving = stable.manifest.version if stable else None
            try:
                desired, torn = self.store.read(name) or Deployment(), False
            except StateUnreadable as error:
                self._report(name, error.message)
                desired, torn = Deployment(), True
            if serving and torn:
                return
            if serving and desired.stable in (None, serving):
                self._settle(name, desired, serving)
                return
            wanted = self._candidates(name, desired, serving)
            for version in wanted:
                if self._try(name, version):
                    if not torn:
                        self._settle(name, desired, version)
                    return
            checks = self._checker.outcomes(name)
            reasons = [check.refused for v, check in checks.items() if v in wanted and check.refused]
            should = ", ".join(map(str, wanted))
            self._report(name, f"should serve {should}: {'; '.join(reasons) or 'it is not there'}")

    def _candidates(self, name: str, desired: Deployment, serving: int | None) -> list[int]:
        """What to try to serve, best first. Where nothing serves, anything that passes will do."""
        wanted = [desired.stable]
        if serving is None:
            wanted += [desired.previous, *reversed(self.repository.versions(name))]
        return list(dict.fromkeys(version for version in wanted if version))

    def _settle(self, name: str, desired: Deployment, version: int) -> None:
        """A version serves. Where no state says which should, write down that it does."""
        if desired.stable is None:
            try:
                self.store.edit(name, lambda d: d if d.stable else d.with_stable(version))
            except NerveError as error:  # serving goes on from a folder that cannot be written
                self._report(name, error.message)
                return
        if desired.stable in (None, version):
            self._problems.pop(name, None)

    def _try(self, name: str, version: int) -> bool:
        """Load and serve a version, unless it failed before and its folder has not changed."""
        check = self._checker.current(name, version)
        if (check and check.refused) or version not in self.repository.versions(name):
            return False
        try:
            self._serve(self._shelf.get(name, version) or self._open(name, version))
        except (VersionRefused, NotFound):
            self._metrics.swaps.labels(name, "refused").inc()
            return False
        return True

    def _check_changed(self, name: str) -> None:
        """Check versions that are new or have changed since they were checked, and close them."""
        for version in self.repository.versions(name):
            if self._stop.is_set():
                return
            if self._checker.current(name, version):
                continue
            with self._changing:
                try:
                    self._checker.load(name, version).predictor.close()
                except (VersionRefused, NotFound):
                    continue

    def _open(self, name: str, version: int) -> LoadedVersion:
        """A version loaded to answer requests; `_close` is its end."""
        loaded = self._checker.load(name, version)
        self._metrics.loaded(loaded)
        return loaded

    def _close(self, loaded: LoadedVersion) -> None:
        loaded.predictor.close()
        self._metrics.closed(loaded)

    def _serve(self, loaded: LoadedVersion) -> None:
        name, version = loaded.manifest.name, loaded.manifest.version
        if self._shelf.serve(loaded):
            self._metrics.swaps.labels(name, "swapped").inc()
            log.info("%s/%d serves", name, version)

    def _report(self, name: str, problem: str) -> None:
        if self._problems.get(name) != problem:
            log.error("%s: %s", name, problem)
        self._problems[name] = problem
