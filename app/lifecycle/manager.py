"""Manager: brings what is served to what should be served, and lends it to requests.

A request holds a lease on the version it started with, so a swap fails no request and mixes no
versions inside one. A retired version is closed when its last lease ends.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from app.errors import NerveError, NotFound, NotReady, VersionRefused
from app.lifecycle.deployment import Deployment, DeploymentStore, StateUnreadable
from app.lifecycle.loading import LoadedVersion, LoadOptions, load_version
from app.lifecycle.repository import Fingerprint, Repository
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


@dataclass
class _Slot:
    """A loaded version and how many requests use it."""

    loaded: LoadedVersion
    leases: int = 0
    retired: bool = False


@dataclass(frozen=True)
class _Check:
    """The outcome of checking a version's folder as it was."""

    fingerprint: Fingerprint
    manifest: Manifest | None
    refused: str | None


@dataclass
class _Model:
    """All that is known of one model name."""

    stable: _Slot | None = None
    pinned: OrderedDict[int, _Slot] = field(default_factory=OrderedDict)
    checks: dict[int, _Check] = field(default_factory=dict)
    problem: str | None = None

    def slot(self, version: int) -> _Slot | None:
        if self.stable and self.stable.loaded.manifest.version == version:
            return self.stable
        return self.pinned.get(version)


class ModelManager:
    """Serves the versions of one models folder. `start` begins, `close` ends.

    Args:
        repository: the models folder.
        store: the desired state.
        options: how versions are run here.
        metrics: where loads and batches are counted.
        max_pinned: versions kept loaded only because requests pin them.
        poll_seconds: how often folder and state are looked at.
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
        self._options = options
        self._metrics = metrics
        self._max_pinned = max_pinned
        self._poll_seconds = poll_seconds
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()  # guards slots and leases; never held while loading
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
        with self._lock:
            models, self._models = self._models, {}
        for model in models.values():
            for slot in (model.stable, *model.pinned.values()):
                if slot:
                    self._close(slot)

    # requests

    @contextmanager
    def lease(self, name: str, version: int | None = None) -> Iterator[LoadedVersion]:
        """A version to answer one request with: the stable one, or the one that is pinned.

        Blocks to load a pinned version that is not; ask `has` first where blocking would hurt.

        Raises:
            NotFound: unknown model or version. VersionRefused: the pinned version fails its checks.
            NotReady: nothing serves under this name yet.
        """
        slot = self._lease(name, version)
        while slot is None and version is not None:
            self.load_pinned(name, version)
            slot = self._lease(name, version)
        if slot is None:
            self.repository.require(name)
            model = self._models.get(name)
            problem = model.problem if model and model.problem else "it is still being loaded"
            raise NotReady(f"{name}: no version serves: {problem}")
        try:
            yield slot.loaded
        finally:
            with self._lock:
                slot.leases -= 1
                over = slot.retired and not slot.leases
            if over:
                threading.Thread(target=self._close, args=(slot,), name="close").start()

    def _lease(self, name: str, version: int | None) -> _Slot | None:
        with self._lock:
            model = self._models.get(name)
            slot = None if model is None else model.slot(version) if version else model.stable
            if slot:
                slot.leases += 1
                if model and version and version in model.pinned:
                    model.pinned.move_to_end(version)
            return slot

    def has(self, name: str, version: int | None) -> bool:
        """Whether `lease` would return at once."""
        with self._lock:
            model = self._models.get(name)
            return version is None or bool(model and model.slot(version))

    def load_pinned(self, name: str, version: int) -> None:
        """Load a version that a request pins; the least recently used one makes room.

        Raises:
            NotFound: there is none. VersionRefused: it fails its checks.
        """
        with self._changing:
            self.repository.path(name, version)
            with self._lock:
                model = self._models.setdefault(name, _Model())
                if model.slot(version):
                    return
            slot = self._open(name, version)
            with self._lock:
                model.pinned[version] = slot
                surplus = len(model.pinned) - self._max_pinned
                gone = [model.pinned.popitem(last=False)[1] for _ in range(max(0, surplus))]
            for old in gone:
                self._retire(old)

    # operators

    def deployment(self, name: str) -> Deployment:
        """The desired state of a model.

        Raises:
            NotFound: there is no such model. StateUnreadable: its file is torn.
        """
        self.repository.require(name)
        return self.store.read(name) or Deployment()

    def activate(self, name: str, version: int) -> Deployment:
        """Make a version the one that serves, if it passes its checks.

        Raises:
            NotFound: there is no such version.
            VersionRefused: it fails its checks; nothing changed.
        """
        with self._changing:
            self.repository.path(name, version)
            with self._lock:
                model = self._models.setdefault(name, _Model())
                slot = model.slot(version)
            if slot is None:
                try:
                    slot = self._open(name, version)
                except VersionRefused:
                    self._metrics.swaps.labels(name, "refused").inc()
                    raise
            try:
                deployment = self.store.edit(name, lambda d: d.with_stable(version))
            except BaseException:
                if model.slot(version) is not slot:
                    self._close(slot)
                raise
            self._swap(name, model, slot)
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

    def status(self) -> dict[str, list[VersionStatus]]:
        """Every version that lies in the folder or is loaded, by model, ascending."""
        names = {*self.repository.names(), *self._models}
        return {name: self.model_status(name) for name in sorted(names)}

    def model_status(self, name: str) -> list[VersionStatus]:
        """Every version of one model, ascending.

        Raises:
            NotFound: there is no such model.
        """
        with self._lock:
            model = self._models.get(name) or _Model()
            checks = dict(model.checks)
            slots = {n: slot.loaded for n, slot in model.pinned.items()}
            stable = model.stable.loaded if model.stable else None
        if stable:
            slots[stable.manifest.version] = stable
        versions = sorted({*self.repository.versions(name), *slots})
        if not versions:
            self.repository.require(name)
        result = []
        for version in versions:
            check, loaded = checks.get(version), slots.get(version)
            state: State = "found"
            if loaded:
                state = "serving" if loaded is stable else "loaded"
            elif check:
                state = "refused" if check.refused else "ready"
            result.append(
                VersionStatus(
                    name,
                    version,
                    state,
                    check.refused if check else None,
                    loaded.manifest if loaded else check.manifest if check else None,
                    loaded,
                )
            )
        return result

    def problem(self, name: str) -> str | None:
        """Why what should serve does not, or cannot be known."""
        model = self._models.get(name)
        return model.problem if model else None

    def ready(self, name: str) -> bool:
        """Whether a model has a stable version that can answer."""
        with self._lock:
            model = self._models.get(name)
            return bool(model and model.stable and model.stable.loaded.predictor.alive)

    # convergence

    def converge(self) -> None:
        """One look at folder and state: load what should serve, then check what is new."""
        names = self.repository.names()
        for name in names:
            if not self._stop.is_set():
                self._converge_model(name)
        for name in names:
            self._check_changed(name)

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
            with self._lock:
                model = self._models.setdefault(name, _Model())
            serving = model.stable.loaded.manifest.version if model.stable else None
            desired, torn = Deployment(), False
            try:
                desired = self.store.read(name) or desired
            except StateUnreadable as error:
                self._report_problem(name, model, error.message)
                torn = True
            if serving is not None and torn:
                return
            if serving is not None and desired.stable in (None, serving):
                if desired.stable is None:
                    self._write_down(name, model, serving)
                else:
                    model.problem = None
                return
            present = self.repository.versions(name)
            wanted = [desired.stable] if desired.stable else []
            if serving is None:  # anything that passes is better than nothing
                wanted += [desired.previous] if desired.previous else []
                wanted += reversed(present)
            for version in dict.fromkeys(wanted):
                if version in present and self._try(name, model, version):
                    if desired.stable is None and not torn:
                        self._write_down(name, model, version)
                    return
            failed = ", ".join(map(str, dict.fromkeys(wanted)))
            reasons = [c.refused for v, c in model.checks.items() if v in wanted and c.refused]
            self._report_problem(
                name, model, f"should serve {failed}: {'; '.join(reasons) or 'it is not there'}"
            )

    def _write_down(self, name: str, model: _Model, version: int) -> None:
        try:
            self.store.edit(name, lambda d: d if d.stable else d.with_stable(version))
        except NerveError as error:  # serving goes on from a folder that cannot be written
            self._report_problem(name, model, error.message)
        else:
            model.problem = None

    def _try(self, name: str, model: _Model, version: int) -> bool:
        """Load and serve a version, unless it failed before and its folder has not changed."""
        check = model.checks.get(version)
        fingerprint = self.repository.fingerprint(name, version)
        if check and check.refused and check.fingerprint == fingerprint:
            return False
        try:
            slot = model.slot(version) or self._open(name, version)
        except (VersionRefused, NotFound):
            self._metrics.swaps.labels(name, "refused").inc()
            return False
        self._swap(name, model, slot)
        return True

    def _check_changed(self, name: str) -> None:
        """Check versions that are new or have changed since they were checked, and close them."""
        model = self._models.get(name)
        if model is None:
            return
        for version in self.repository.versions(name):
            if self._stop.is_set():
                return
            check = model.checks.get(version)
            if check and check.fingerprint == self.repository.fingerprint(name, version):
                continue
            with self._changing:
                try:
                    loaded = self._load(name, version)
                except (VersionRefused, NotFound):
                    continue
                loaded.predictor.close()

    def _open(self, name: str, version: int) -> _Slot:
        """A version loaded to answer requests."""
        loaded = self._load(name, version)
        self._metrics.loaded(loaded)
        return _Slot(loaded)

    def _load(self, name: str, version: int) -> LoadedVersion:
        """Load a version and note the outcome of its checks."""
        folder = self.repository.path(name, version)
        fingerprint = self.repository.fingerprint(name, version)
        checks = self._models.setdefault(name, _Model()).checks
        started = time.perf_counter()
        try:
            report = partial(self._metrics.batch, name, str(version))
            loaded = load_version(folder, self._options, report)
        except VersionRefused as error:
            before = checks.get(version)
            checks[version] = _Check(fingerprint, None, error.message)
            self._metrics.load_seconds.labels(name, "refused").observe(time.perf_counter() - started)
            if not before or before.refused != error.message:
                log.warning("version refused: %s", error.message)
            raise
        seconds = time.perf_counter() - started
        checks[version] = _Check(fingerprint, loaded.manifest, None)
        self._metrics.load_seconds.labels(name, "loaded").observe(seconds)
        log.info(
            "%s/%d passed its checks in %.2f s (%s on %s, %d threads)",
            name,
            version,
            seconds,
            loaded.variant.precision,
            loaded.provider,
            loaded.threads,
        )
        return loaded

    def _swap(self, name: str, model: _Model, slot: _Slot) -> None:
        version = slot.loaded.manifest.version
        with self._lock:
            old, model.stable = model.stable, slot
            model.pinned.pop(version, None)
            model.problem = None
        if old is not slot:
            self._metrics.swaps.labels(name, "swapped").inc()
            log.info("%s/%d serves", name, version)
            if old:
                self._retire(old)

    def _retire(self, slot: _Slot) -> None:
        with self._lock:
            slot.retired = True
            idle = not slot.leases
        if idle:
            self._close(slot)

    def _close(self, slot: _Slot) -> None:
        slot.loaded.predictor.close()
        self._metrics.closed(slot.loaded)

    def _report_problem(self, name: str, model: _Model, problem: str) -> None:
        if model.problem != problem:
            log.error("%s: %s", name, problem)
        model.problem = problem
