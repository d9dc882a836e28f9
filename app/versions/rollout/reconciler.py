"""Reconciler: which version answers, which tries out, which is compared; and how each comes to its role.

Nothing is loaded into this process that could hurt it: a version is tried in a process of its own first,
unless whoever deployed it has done so. Trials are made before `changing` is taken, for they may take long.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

from app.engine.model import Model
from app.errors import NerveError
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.outcomes import Checker
from app.versions.rollout.canary import CanaryWatch, Tryout
from app.versions.rollout.desired import Deployment, DeploymentStore, StateUnreadable
from app.versions.rollout.operations import Operations
from app.versions.rollout.registry import Registry
from app.versions.rollout.shadow import ShadowRunner
from app.versions.storage.repository import Repository

log = logging.getLogger("nerve.lifecycle")

Opened = dict[tuple[int, bool], LoadedVersion]
"""Versions that were loaded for a change, by number and whether in the background."""


class Reconciler:
    """Brings the versions of this process to the roles that the desired state gives them.

    Args:
        changed: called when an operator's change has been carried out.

    Attributes:
        shelf: the versions that answer requests.
        tryouts: the canaries among them.
        shadows: of each model, the versions that are compared.
        generations: of each model's deployment, the one that was carried out as far as it could be.
        changing: held while versions are loaded and change roles.
    """

    def __init__(
        self,
        repository: Repository,
        store: DeploymentStore,
        checker: Checker,
        metrics: Metrics,
        max_pinned: int,
        changed: Callable[[], None],
    ):
        self.shelf = Registry(max_pinned, self._close)
        self.tryouts: dict[str, Tryout] = {}
        self.shadows: defaultdict[str, dict[int, ShadowRunner]] = defaultdict(dict)
        self.generations: dict[str, int] = {}
        self.changing = threading.RLock()
        self.operations = Operations(repository, store, checker, self._prepared)
        self._repository = repository
        self._store = store
        self._checker = checker
        self._metrics = metrics
        self._problems: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._changed = changed
        self._failed: WeakSet[Model] = WeakSet()  # those that were dealt with

    def converge(self, name: str) -> None:
        """Look at what should serve, and carry it out."""
        self._look_after(name)
        self._try_wanted(name)
        with self.changing:
            self._carry_out(name, {})

    def pin(self, name: str, version: int) -> None:
        """Keep a version loaded for requests that pin it.

        Raises:
            NotFound: there is none. VersionRefused: it fails its checks.
        """
        self._repository.path(name, version)
        self._checker.ensure(name, version)
        with self.changing:
            if not self.shelf.get(name, version):
                self.shelf.pin(self._open(name, version))

    def problem(self, name: str) -> str | None:
        """Why what should serve does not, or cannot be known."""
        return "; ".join(dict.fromkeys(self._problems.get(name, {}).values())) or None

    def note(self, name: str, source: str, problem: str | None) -> None:
        """Keep what is wrong with a model, by who found it, and log what is new of it."""
        if not problem:
            self._problems[name].pop(source, None)
        elif self._problems[name].get(source) != problem:
            log.error("%s: %s", name, problem)
            self._problems[name][source] = problem

    def close(self) -> None:
        """Close every version; call it when no request runs any more."""
        runners = [runner for shadows in self.shadows.values() for runner in shadows.values()]
        for runner in runners:
            runner.close()
        for runner in runners:
            runner.close(wait=True)
        self.shelf.clear()

    # what fails

    def _look_after(self, name: str) -> None:
        """Take out what fails in service, and a canary that is worse than its rule allows."""
        running = [*self.shelf.loaded(name).values()]
        running += [runner.loaded for runner in self.shadows.get(name, {}).values()]
        for loaded in running:
            if loaded.model.failing and loaded.model not in self._failed:
                self._take_out(name, loaded)
        tryout = self.tryouts.get(name)
        if tryout and tryout.watch and (verdict := tryout.watch.verdict()):
            version = tryout.canary.version
            self.tryouts.pop(name, None)
            if self.operations.withdraw(name, version, f"nerve: {verdict}", canary_only=True):
                log.error("%s/%d is withdrawn as a canary: %s", name, version, verdict)
                self._metrics.canary_aborts.labels(name, str(version), verdict.partition(":")[0]).inc()

    def _take_out(self, name: str, loaded: LoadedVersion) -> None:
        """A version whose session fails loses its roles; the previous one is put back where it was stable.

        Where nothing else can take its place it gets a new session, which may do better than none.
        """
        version = loaded.manifest.version
        reason = f"{name}/{version} failed on three batches in a row while it served"
        self._failed.add(loaded.model)
        log.error("%s", reason)
        try:
            withdrawn = self.operations.withdraw(name, version, f"nerve: {reason}")
            self.note(name, "take out", None)
        except NerveError as error:
            self.note(name, "take out", f"{reason}, and that cannot be written down: {error.message}")
            withdrawn = False
        if withdrawn:
            hint = "see the log for the session's error, and activate it to try again"
            self._checker.refuse(name, version, f"{reason}; {hint}")
        self.shelf.unpin(name, version)
        self._try_wanted(name)
        with self.changing:
            self._carry_out(name, {})
            anew = self.shelf.get(name) is loaded
            if anew:
                self._serve(self._open(name, version))
        if withdrawn or anew:
            self._metrics.taken_out.labels(name, str(version)).inc()

    # what should be

    def _desired(self, name: str) -> tuple[Deployment, str | None]:
        """What should serve, and what is wrong with the file that says so: then it is what it last said."""
        try:
            return self._store.read(name) or Deployment(), None
        except StateUnreadable as error:
            last = self._store.last(name)
            return last.deployment if last else Deployment(), error.message

    def _candidates(self, name: str, desired: Deployment) -> list[int]:
        """What to try to serve, best first. Where nothing serves, anything that passes will do."""
        wanted = [desired.stable]
        if not self.shelf.get(name):
            wanted += [desired.previous, *reversed(self._repository.versions(name))]
        return list(dict.fromkeys(version for version in wanted if version))

    def _try_wanted(self, name: str) -> None:
        """Try what should have a role, is not loaded, and was not tried as its folder is now.

        What was refused is tried again once for every generation of the deployment.
        """
        desired, torn = self._desired(name)
        again = self.generations.get(name) != desired.generation
        for version in self._candidates(name, desired):
            if self._passes(name, version, desired, again):
                break
        if not torn:
            beside = desired.versions - {desired.stable}
            for version in beside - set(self.shadows.get(name, {})):
                self._passes(name, version, desired, again)

    def _passes(self, name: str, version: int, desired: Deployment, again: bool) -> bool:
        if self.shelf.get(name, version) or self._may_load(name, version, desired):
            return True
        if version not in self._repository.versions(name):
            return False
        try:
            self._checker.ensure(name, version, again)
        except NerveError:  # kept, and told where it matters
            return False
        return True

    def _may_load(self, name: str, version: int, desired: Deployment) -> bool:
        """Whether a version passed here, or with whoever deployed it; a change by hand says nothing."""
        check = self._checker.current(name, version)
        if check or version not in self._repository.versions(name):
            return check is not None and check.refused is None
        last = self._store.last(name)
        return version in desired.versions and last is not None and last.deployment == desired

    def _carry_out(self, name: str, opened: Opened) -> None:
        """Give each version its role, with versions that were loaded for it or may be loaded now."""
        problems: list[str | None] = []
        try:
            desired, torn = self._desired(name)
            problems += [torn, self._carry_out_stable(name, desired, torn is not None, opened)]
            if not torn:
                problems += [self._carry_out_canary(name, desired, opened)]
                problems += [self._carry_out_shadows(name, desired, opened)]
            self.generations[name] = desired.generation
        finally:
            for loaded in opened.values():
                self._close(loaded)
        self.note(name, "deployment", "; ".join(filter(None, problems)))

    def _carry_out_stable(self, name: str, desired: Deployment, torn: bool, opened: Opened) -> str | None:
        stable = self.shelf.get(name)
        serving = stable.manifest.version if stable else None
        if serving and torn:
            return None
        if serving and desired.stable in (None, serving):
            return self._settle(name, desired, serving)
        wanted = self._candidates(name, desired)
        for version in wanted:
            if loaded := self._obtain(name, version, desired, opened):
                self._serve(loaded)
                return None if torn else self._settle(name, desired, version)
        return self._why(name, "should serve", wanted)

    def _settle(self, name: str, desired: Deployment, version: int) -> str | None:
        """A version serves. Where no state says which should, write down that it does."""
        if desired.stable is None:
            try:
                self._store.edit(
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

    def _carry_out_canary(self, name: str, desired: Deployment, opened: Opened) -> str | None:
        canary, now = desired.canary, self.tryouts.get(name)
        if canary is None:
            self.tryouts.pop(name, None)
            if self.shelf.canary(name):
                self.shelf.try_out(name, None)
                log.info("%s has no canary any more", name)
            return None
        if self.shelf.canary(name) != canary.version:
            loaded = self._obtain(name, canary.version, desired, opened)
            if not loaded:
                self.tryouts.pop(name, None)
                self.shelf.try_out(name, None)
                return self._why(name, "should try out", [canary.version])
            self.shelf.try_out(name, loaded)
            log.info("%s/%d answers %g %% as a canary", name, canary.version, canary.percent)
        if not now or now.canary != canary:
            self.tryouts[name] = Tryout(canary, CanaryWatch(canary.abort) if canary.abort else None)
        return None

    def _carry_out_shadows(self, name: str, desired: Deployment, opened: Opened) -> str | None:
        running = self.shadows[name]
        self._end_shadows(name, keep={shadow.version for shadow in desired.shadow})
        problems = []
        for shadow in desired.shadow:
            if runner := running.get(shadow.version):
                runner.percent = shadow.percent
            elif loaded := self._obtain(name, shadow.version, desired, opened, background=True):
                running[shadow.version] = ShadowRunner(
                    loaded, shadow.percent, lambda: self._idle(name), self._metrics, self._close
                )
                log.info("%s/%d gets copies of %g %%", name, shadow.version, shadow.percent)
            else:
                problems.append(self._why(name, "should have the shadow", [shadow.version]))
        return "; ".join(problems)

    def _end_shadows(self, name: str, keep: Collection[int]) -> None:
        for version in [version for version in self.shadows[name] if version not in keep]:
            self.shadows[name].pop(version).close()

    def _idle(self, name: str) -> bool:
        """Whether a model's stable version has nothing to do."""
        stable = self.shelf.get(name)
        return stable is not None and stable.model.idle

    def _obtain(
        self, name: str, version: int, desired: Deployment, opened: Opened, background: bool = False
    ) -> LoadedVersion | None:
        """A version to give a role to: opened for it, loaded already, or loaded now; None if it may not."""
        if loaded := opened.pop((version, background), None):
            return loaded
        if not background and (loaded := self.shelf.get(name, version)):
            return loaded
        if not self._may_load(name, version, desired):
            return None
        try:
            return self._open(name, version, background)
        except NerveError:  # kept by the checker
            return None

    def _why(self, name: str, what: str, versions: Sequence[int]) -> str:
        checks = self._checker.outcomes(name)
        reasons = [check.refused for v, check in checks.items() if v in versions and check.refused]
        return f"{what} {', '.join(map(str, versions))}: {'; '.join(reasons) or 'it is not there'}"

    @contextmanager
    def _prepared(self, name: str, wanted: Deployment) -> Iterator[None]:
        """Load what a deployment brings, let it be written down, and serve it; or close it again."""
        with self.changing:
            opened: Opened = {}
            try:
                for version in wanted.answering:
                    if not self.shelf.get(name, version):
                        opened[version, False] = self._open(name, version)
                for shadow in wanted.shadow:
                    if shadow.version not in self.shadows[name]:
                        opened[shadow.version, True] = self._open(name, shadow.version, background=True)
                yield
            except BaseException:
                for loaded in opened.values():
                    self._close(loaded)
                raise
            self._carry_out(name, opened)
            self._changed()

    def _open(self, name: str, version: int, background: bool = False) -> LoadedVersion:
        """A version loaded to answer requests; `_close` is its end."""
        loaded = self._checker.load(name, version, background)
        self._metrics.model_info.labels(*_info(loaded)).inc()
        return loaded

    def _close(self, loaded: LoadedVersion) -> None:
        loaded.close()
        self._metrics.model_info.labels(*_info(loaded)).dec()

    def _serve(self, loaded: LoadedVersion) -> None:
        name, version = loaded.manifest.name, loaded.manifest.version
        if self.shelf.serve(loaded):
            self._metrics.swaps.labels(name, "swapped").inc()
            log.info("%s/%d serves", name, version)


def _info(loaded: LoadedVersion) -> tuple[str, ...]:
    """The labels of `nerve_model_info`."""
    manifest = loaded.manifest
    return (
        manifest.name,
        str(manifest.version),
        loaded.variant.precision,
        loaded.provider,
        str(loaded.threads),
        str(loaded.runs),
    )
