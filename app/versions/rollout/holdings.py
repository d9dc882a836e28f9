"""Holdings: keeps the versions that this process has loaded, for requests and as shadows.

Each method is one step of a plan: `plan` decides why it is taken, the reconciler when.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from app.engine.model import Model
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.outcomes import Checker
from app.versions.rollout.canary import CanaryWatch, Tryout
from app.versions.rollout.desired import Canary, Shadow
from app.versions.rollout.gauges import LoadedGauges
from app.versions.rollout.plan import Loaded
from app.versions.rollout.registry import Registry
from app.versions.rollout.shadow import ShadowRunner
from app.versions.rollout.steps import Load, Renew

log = logging.getLogger("nerve.lifecycle")


@dataclass
class _Failure:
    """Notes what was done about a session that keeps failing.

    Attributes:
        counted: whether the metric `taken_out` counts it.
        renewed: whether a new session was tried, with success or without.
    """

    counted: bool = False
    renewed: bool = False


class Holdings:
    """Keeps the versions that are loaded in this process.

    Attributes:
        registry: the versions that answer requests.
        shadows: each model's runners of shadow versions, by version.
        gauges: the metrics of what is loaded.
    """

    def __init__(self, checker: Checker, metrics: Metrics, max_pinned: int):
        self.registry = Registry(max_pinned, self._close)
        self.shadows: defaultdict[str, dict[int, ShadowRunner]] = defaultdict(dict)
        self.gauges = LoadedGauges(metrics)
        self._checker = checker
        self._metrics = metrics
        self._awaited: dict[str, frozenset[int]] = {}
        self._failures: WeakKeyDictionary[Model, _Failure] = WeakKeyDictionary()

    def loaded(self, name: str) -> Loaded:
        """Return a model's loaded versions and their roles, for a plan."""
        held, tryout = self.registry.loaded(name), self.registry.tryout(name)
        stable = self.registry.get(name)
        failing = [
            v for v, one in self._loadings(name) if one.model.failing and one.model not in self._failures
        ]
        return Loaded(
            versions=frozenset(held),
            stable=stable.manifest.version if stable else None,
            canary=tryout.canary if tryout else None,
            pinned=self.registry.pinned(name),
            shadows={version: runner.percent for version, runner in list(self.shadows[name].items())},
            failing=frozenset(failing),
            spent=frozenset(version for version, one in held.items() if self._spent(one)),
            awaited=self._awaited.get(name, frozenset()),
            verdict=tryout.watch.verdict() if tryout and tryout.watch else None,
        )

    def load(self, name: str, load: Load) -> None:
        """Load a version into this process.

        Raises:
            NotFound: there is no such version. VersionRefused: it cannot be loaded.
        """
        loaded = self._open(name, load.version, load.background)
        if not load.background:
            self.registry.add(loaded)
            return
        self.shadows[name][load.version] = ShadowRunner(
            loaded, 0, lambda: self._idle(name), self._metrics, self._close
        )

    def pin(self, name: str, version: int) -> None:
        """Load a version and keep it for requests that pin it.

        Raises:
            As `load`.
        """
        self.load(name, Load(version))
        self.registry.pin(name, version)

    def serve(self, name: str, version: int, awaited: frozenset[int] = frozenset()) -> None:
        """Make a version the stable one, for as long as those that are awaited cannot be checked."""
        self.registry.serve(name, version)
        self._awaited[name] = awaited
        self._metrics.swaps.labels(name, "swapped").inc()
        log.info("%s/%d serves", name, version)

    def fail(self, name: str, version: int, counted: bool) -> None:
        """Note that a version's failing sessions were dealt with, and no longer keep it pinned.

        Args:
            counted: whether the version lost its roles by it, which the metric `taken_out` counts.
        """
        for number, loaded in self._loadings(name):
            if number == version and loaded.model.failing:
                self._failures[loaded.model] = _Failure(counted)
        self.registry.unpin(name, version)
        if counted:
            self._metrics.taken_out.labels(name, str(version)).inc()

    def renew(self, name: str, renew: Renew) -> None:
        """Replace the stable version's failing session by a new one.

        Raises:
            As `load`.
        """
        before = self.registry.get(name, renew.version)
        failure = self._failures[before.model] if before else _Failure()
        failure.renewed = True
        self.load(name, Load(renew.version))
        self.serve(name, renew.version, self._awaited.get(name, frozenset()))
        if not failure.counted:
            self._metrics.taken_out.labels(name, str(renew.version)).inc()

    def set_canary(self, name: str, canary: Canary) -> None:
        """Let a version answer a share of the requests, and watch it if it has an abort rule."""
        watch = CanaryWatch(canary.abort) if canary.abort else None
        self.registry.try_out(name, Tryout(canary, watch))
        log.info("%s/%d answers %g %% as a canary", name, canary.version, canary.percent)

    def end_canary(self, name: str) -> None:
        """Let the stable version answer all requests."""
        self.registry.try_out(name, None)
        log.info("%s has no canary any more", name)

    def set_shadow(self, name: str, shadow: Shadow) -> None:
        """Give a shadow that is loaded copies of a share of the requests."""
        self.shadows[name][shadow.version].percent = shadow.percent
        log.info("%s/%d gets copies of %g %%", name, shadow.version, shadow.percent)

    def end_shadow(self, name: str, version: int) -> None:
        """Stop copying requests to a shadow, which its runner then closes."""
        self.shadows[name].pop(version).close()

    def close(self) -> None:
        """Close every version; call it when no request runs any more."""
        runners = [runner for shadows in self.shadows.values() for runner in shadows.values()]
        for runner in runners:
            runner.close()
        for runner in runners:
            runner.close(wait=True)
        self.registry.clear()

    def hangs(self, name: str, version: int) -> bool:
        """Say whether a session of a version hangs."""
        return any(number == version and one.model.hung for number, one in self._loadings(name))

    def _loadings(self, name: str) -> list[tuple[int, LoadedVersion]]:
        """Return all that is loaded of a model; a version may occur twice, for requests and as a shadow."""
        shadows = [(version, runner.loaded) for version, runner in list(self.shadows[name].items())]
        return [*self.registry.loaded(name).items(), *shadows]

    def _spent(self, loaded: LoadedVersion) -> bool:
        """Say whether a version's session keeps failing and no new one was tried; one try is made."""
        failure = self._failures.get(loaded.model)
        return failure is not None and not failure.renewed

    def _idle(self, name: str) -> bool:
        """Say whether a model's stable version has nothing to do."""
        stable = self.registry.get(name)
        return stable is not None and stable.model.idle

    def _open(self, name: str, version: int, background: bool) -> LoadedVersion:
        loaded = self._checker.load(name, version, background)
        self.gauges.opened(loaded)
        return loaded

    def _close(self, loaded: LoadedVersion) -> None:
        loaded.close()
        self.gauges.closed(loaded)
