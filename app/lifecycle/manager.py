"""Manager: brings what is served to what should be served."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from app.engine.predictor import Prediction
from app.errors import NerveError, NotFound, NotReady, VersionRefused
from app.lifecycle.canary import CanaryWatch, chosen
from app.lifecycle.checks import Checker
from app.lifecycle.deployment import Canary, Deployment, DeploymentStore, StateUnreadable
from app.lifecycle.loading import LoadedVersion, LoadOptions
from app.lifecycle.operations import Operations
from app.lifecycle.repository import Repository
from app.lifecycle.shadow import ShadowRunner
from app.lifecycle.shelf import Shelf
from app.lifecycle.workers import ModelReport, Workers
from app.manifest import Manifest
from app.metrics import Metrics

log = logging.getLogger("nerve.lifecycle")

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


@dataclass(frozen=True)
class _Tryout:
    """A canary that answers its share."""

    canary: Canary
    watch: CanaryWatch | None


Opened = dict[tuple[int, bool], LoadedVersion]
"""Versions that were loaded for a change, by number and whether in the background."""


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
        self.workers = Workers(store.folder)
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._checker = Checker(repository, options, metrics)
        self.operations = Operations(repository, store, self._checker, self._prepared)
        self._shelf = Shelf(max_pinned, self._close)
        self._tryouts: dict[str, _Tryout] = {}
        self._shadows: defaultdict[str, dict[int, ShadowRunner]] = defaultdict(dict)
        self._generations: dict[str, int] = {}
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
        self._checker.stop()
        if self._thread.is_alive():
            self._thread.join()
        for name in list(self._shadows):
            self._end_shadows(name, keep=())
        self._shelf.clear()
        self.workers.withdraw()

    # requests

    @contextmanager
    def lease(
        self,
        name: str,
        version: int | None = None,
        key: Callable[[str], str | None] = lambda sticky: None,
    ) -> Iterator[LoadedVersion]:
        """A version to answer one request with: the one that is pinned, else the canary or the stable one.

        Blocks to load a pinned version that is not; ask `has` first where blocking would hurt.

        Args:
            key: given what a canary sticks to, what the request has of it.

        Raises:
            NotFound: unknown model or version. VersionRefused: the pinned version fails its checks.
            NotReady: nothing serves under this name yet.
        """
        tryout = self._tryouts.get(name) if version is None else None
        lease, by_canary = None, False
        if tryout and chosen(
            tryout.canary, name, key(tryout.canary.sticky) if tryout.canary.sticky else None
        ):
            lease = self._shelf.lend(name, tryout.canary.version)
            by_canary = lease is not None
        lease = lease or self._shelf.lend(name, version)
        while lease is None and version is not None:
            self.load_pinned(name, version)
            lease = self._shelf.lend(name, version)
        if lease is None:
            self.repository.require(name)
            problem = self.problem(name) or "it is still being loaded"
            raise NotReady(f"{name}: no version serves: {problem}")
        watch, started = tryout.watch if tryout else None, time.perf_counter()
        try:
            yield lease.loaded
        except Exception as error:
            if watch:
                failed = getattr(error, "status", 500) == 500
                watch.record(by_canary, time.perf_counter() - started, failed)
            raise
        else:
            if watch:
                watch.record(by_canary, time.perf_counter() - started, failed=False)
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

    def copy(self, served: LoadedVersion, texts: Sequence[str], answers: Sequence[Prediction]) -> None:
        """Let shadows have a copy of a request that was answered by the stable version. Returns at once."""
        name = served.manifest.name
        shadows = self._shadows.get(name)
        if shadows and served is self._shelf.get(name):
            for shadow in list(shadows.values()):
                shadow.offer(texts, answers, served)

    # status

    def names(self) -> list[str]:
        """Models that lie in the folder or are loaded, sorted."""
        return sorted({*self.repository.names(), *self._shelf.names()})

    def model_status(self, name: str) -> list[VersionStatus]:
        """Every version of one model that lies in the folder or is loaded, ascending.

        Raises:
            NotFound: there is no such model.
        """
        checks, here = self._checker.outcomes(name), self._shelf.loaded(name)
        shadows = {version: runner.loaded for version, runner in list(self._shadows[name].items())}
        stable, canary = self._shelf.get(name), self._shelf.canary(name)
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
        return self._problems.get(name)

    def ready(self, name: str) -> bool:
        """Whether a model has a stable version that can answer."""
        stable = self._shelf.get(name)
        return stable is not None and stable.predictor.alive

    # convergence

    def converge(self) -> None:
        """One look at folder and state: load what should serve, then check what is new."""
        names = self.names()
        for look in (self._look_after, self._converge_model):
            for name in names:
                self._guarded(name, look)
        self._tell()
        for name in names:
            self._guarded(name, self._check_changed)

    def _guarded(self, name: str, look: Callable[[str], None]) -> None:
        if self._stop.is_set():
            return
        try:
            look(name)
        except Exception as error:  # one model's trouble is not another's
            self._note(name, f"could not be looked after: {error!r}")

    def _watch(self) -> None:
        while True:
            try:
                self.converge()
                self._metrics.refresh()
            except Exception:  # a broken disk must not end the watching
                log.exception("could not look at models and state")
            if self._stop.wait(self._poll_seconds):
                return

    def _look_after(self, name: str) -> None:
        """Take out what fails in service, and a canary that is worse than its rule allows."""
        running = [*self._shelf.loaded(name).values()]
        running += [runner.loaded for runner in self._shadows[name].values()]
        for loaded in running:
            if loaded.predictor.failing:
                self._take_out(name, loaded)
        tryout = self._tryouts.get(name)
        if tryout and tryout.watch and (verdict := tryout.watch.verdict()):
            self._tryouts.pop(name)
            version = tryout.canary.version
            log.error("%s/%d is withdrawn as a canary: %s", name, version, verdict)
            self._metrics.canary_aborts.labels(name, str(version), verdict.partition(":")[0]).inc()
            self.operations.withdraw(name, version, f"nerve: {verdict}", "abort")

    def _take_out(self, name: str, loaded: LoadedVersion) -> None:
        """A version whose session fails loses its roles; where it was stable, the previous one is again."""
        version = loaded.manifest.version
        reason = f"{name}/{version} failed on three batches in a row while it served"
        with self._changing:
            desired = self.operations.withdraw(name, version, f"nerve: {reason}", "take out")
            self._metrics.taken_out.labels(name, str(version)).inc()
            log.error("%s", reason)
            hint = "see the log for the session's error, and activate it to try again"
            self._checker.refuse(name, version, f"{reason}; {hint}")
            self._shelf.unpin(name, version)
            if desired.stable == version:  # nothing to put back: a new session may do better than none
                self._shelf.serve(self._open(name, version))

    def _converge_model(self, name: str, opened: Opened | None = None) -> None:
        """Give each version the role that it should have, with versions loaded for it or to be loaded."""
        opened = {} if opened is None else opened
        with self._changing:
            try:
                desired, torn = self._desired(name)
                anew = self._generations.get(name) != desired.generation
                problems = [torn, self._converge_stable(name, desired, torn is not None, anew, opened)]
                if not torn:
                    problems += [self._converge_canary(name, desired, anew, opened)]
                    problems += [self._converge_shadows(name, desired, anew, opened)]
                    # writing down what serves has begun a new one
                    self._generations[name] = desired.generation
            finally:
                for loaded in opened.values():
                    self._close(loaded)
            self._note(name, "; ".join(filter(None, problems)))

    def _desired(self, name: str) -> tuple[Deployment, str | None]:
        """What should serve, and what is wrong with the file that says so: then it is what it last said."""
        try:
            return self.store.read(name) or Deployment(), None
        except StateUnreadable as error:
            past = self.store.history(name)
            return past[-1].deployment if past else Deployment(), error.message

    def _converge_stable(
        self, name: str, desired: Deployment, torn: bool, anew: bool, opened: Opened
    ) -> str | None:
        stable = self._shelf.get(name)
        serving = stable.manifest.version if stable else None
        if serving and torn:
            return None
        if serving and desired.stable in (None, serving):
            return self._settle(name, desired, serving)
        wanted = self._candidates(name, desired, serving)
        for version in wanted:
            loaded = self._obtain(name, version, anew, opened)
            if loaded:
                self._serve(loaded)
                return None if torn else self._settle(name, desired, version)
        return self._why(name, "should serve", wanted)

    def _candidates(self, name: str, desired: Deployment, serving: int | None) -> list[int]:
        """What to try to serve, best first. Where nothing serves, anything that passes will do."""
        wanted = [desired.stable]
        if serving is None:
            wanted += [desired.previous, *reversed(self.repository.versions(name))]
        return list(dict.fromkeys(version for version in wanted if version))

    def _settle(self, name: str, desired: Deployment, version: int) -> str | None:
        """A version serves. Where no state says which should, write down that it does."""
        if desired.stable is None:
            try:
                self.store.edit(
                    name,
                    lambda d: d if d.stable else d.with_stable(version),
                    "nerve: found no state",
                    "start",
                )
            except NerveError as error:  # serving goes on from a folder that cannot be written
                return error.message
        elif desired.stable != version:
            return f"{self._why(name, 'should serve', [desired.stable])}; {version} serves"
        return None

    def _converge_canary(self, name: str, desired: Deployment, anew: bool, opened: Opened) -> str | None:
        canary, now = desired.canary, self._tryouts.get(name)
        if canary is None:
            self._tryouts.pop(name, None)
            if self._shelf.canary(name):
                self._shelf.try_out(name, None)
                log.info("%s has no canary any more", name)
            return None
        if self._shelf.canary(name) != canary.version:
            loaded = self._obtain(name, canary.version, anew, opened)
            if not loaded:
                self._tryouts.pop(name, None)
                self._shelf.try_out(name, None)
                return self._why(name, "should try out", [canary.version])
            self._shelf.try_out(name, loaded)
            log.info("%s/%d answers %g %% as a canary", name, canary.version, canary.percent)
        if not now or now.canary != canary:
            self._tryouts[name] = _Tryout(canary, CanaryWatch(canary.abort) if canary.abort else None)
        return None

    def _converge_shadows(self, name: str, desired: Deployment, anew: bool, opened: Opened) -> str | None:
        running = self._shadows[name]
        self._end_shadows(name, keep={shadow.version for shadow in desired.shadow})
        problems = []
        for shadow in desired.shadow:
            if runner := running.get(shadow.version):
                runner.percent = shadow.percent
            elif loaded := self._obtain(name, shadow.version, anew, opened, background=True):
                running[shadow.version] = ShadowRunner(loaded, shadow.percent, self._metrics)
                log.info("%s/%d gets copies of %g %%", name, shadow.version, shadow.percent)
            else:
                problems.append(self._why(name, "should have the shadow", [shadow.version]))
        return "; ".join(problems)

    def _end_shadows(self, name: str, keep: Sequence[int] | set[int]) -> None:
        for version in [version for version in self._shadows[name] if version not in keep]:
            runner = self._shadows[name].pop(version)
            runner.close()
            self._metrics.closed(runner.loaded)

    def _obtain(
        self, name: str, version: int, anew: bool, opened: Opened, background: bool = False
    ) -> LoadedVersion | None:
        """A version to give a role to: opened for it, loaded already, or loaded now; None if it fails.

        What failed before is tried again once its folder has changed, or the deployment has (`anew`).
        """
        if loaded := opened.pop((version, background), None):
            return loaded
        if not background and (loaded := self._shelf.get(name, version)):
            return loaded
        check = self._checker.current(name, version)
        if (check and check.refused and not anew) or version not in self.repository.versions(name):
            return None
        try:
            return self._open(name, version, background)
        except (VersionRefused, NotFound):
            return None

    def _why(self, name: str, what: str, versions: Sequence[int]) -> str:
        checks = self._checker.outcomes(name)
        reasons = [check.refused for v, check in checks.items() if v in versions and check.refused]
        return f"{what} {', '.join(map(str, versions))}: {'; '.join(reasons) or 'it is not there'}"

    def _check_changed(self, name: str) -> None:
        """Check versions that are new or have changed since they were checked."""
        for version in self.repository.versions(name):
            if self._stop.is_set():
                return
            if not self._checker.current(name, version):
                try:
                    self._checker.check(name, version)
                except NerveError:  # remembered, or to be tried by the next look
                    continue

    @contextmanager
    def _prepared(self, name: str, wanted: Deployment) -> Iterator[None]:
        """Load what a deployment brings, let it be written down, and serve it; or close it again."""
        with self._changing:
            opened: Opened = {}
            try:
                for version in wanted.answering:
                    if not self._shelf.get(name, version):
                        opened[version, False] = self._open(name, version)
                for shadow in wanted.shadow:
                    if shadow.version not in self._shadows[name]:
                        opened[shadow.version, True] = self._open(name, shadow.version, background=True)
                yield
            except BaseException:
                for loaded in opened.values():
                    self._close(loaded)
                raise
            self._converge_model(name, opened)
            self._tell()

    def _open(self, name: str, version: int, background: bool = False) -> LoadedVersion:
        """A version loaded to answer requests; `_close` is its end."""
        loaded = self._checker.load(name, version, background)
        self._metrics.loaded(loaded)
        return loaded

    def _close(self, loaded: LoadedVersion) -> None:
        loaded.close()
        self._metrics.closed(loaded)

    def _serve(self, loaded: LoadedVersion) -> None:
        name, version = loaded.manifest.name, loaded.manifest.version
        if self._shelf.serve(loaded):
            self._metrics.swaps.labels(name, "swapped").inc()
            log.info("%s/%d serves", name, version)

    def _tell(self) -> None:
        """Report what this process serves."""
        models = {}
        for name in self.names():
            stable = self._shelf.get(name)
            models[name] = ModelReport(
                generation=self._generations.get(name, 0),
                stable=stable.manifest.version if stable else None,
                canary=self._shelf.canary(name),
                shadow=tuple(self._shadows[name]),
                problem=self.problem(name),
            )
        try:
            self.workers.report(models)
        except OSError as error:  # others cannot see it, requests are answered all the same
            log.debug("%s cannot be written: %s", self.store.folder / "workers", error)

    def _note(self, name: str, problem: str) -> None:
        """Keep what is wrong with a model, and log what is new of it."""
        if not problem:
            self._problems.pop(name, None)
        elif self._problems.get(name) != problem:
            log.error("%s: %s", name, problem)
            self._problems[name] = problem
