"""Registry: the versions that are loaded to answer requests, their roles, and who holds leases on them.

A request holds a lease on the version it started with, so a swap fails no request and mixes no versions
inside one. A version that was retired is closed when its last lease ends.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from app.versions.loading.loaded import LoadedVersion
from app.versions.rollout.canary import CanaryWatch, Tryout


@dataclass
class _Entry:
    """One loading of a version, and how many leases there are on it."""

    loaded: LoadedVersion
    leases: int = 0
    retired: bool = False


@dataclass
class _Model:
    """The loaded versions of one model and their roles. Each is loaded once, whatever its roles are."""

    entries: dict[int, _Entry] = field(default_factory=dict)
    stable: int | None = None
    tryout: Tryout | None = None
    pinned: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def has_role(self, version: int) -> bool:
        canary = self.tryout and self.tryout.canary.version
        return version in (self.stable, canary) or version in self.pinned


class Lease:
    """The right to use a loaded version for one request. Whoever has it calls `release`, once."""

    def __init__(self, registry: "Registry", entry: _Entry, watch: CanaryWatch | None, by_canary: bool):
        self._registry, self._entry = registry, entry
        self._watch, self._by_canary = watch, by_canary
        self._started = time.perf_counter()

    @property
    def loaded(self) -> LoadedVersion:
        """The version."""
        return self._entry.loaded

    def release(self, failed: bool | None = None) -> None:
        """Give the version back.

        Args:
            failed: whether the request failed by the server's fault; None says that nothing is to be
                learnt of it for the canary's rule.
        """
        self._registry._release(self._entry)
        if self._watch and failed is not None:
            self._watch.record(self._by_canary, time.perf_counter() - self._started, failed)


class Registry:
    """Of each model a stable version, perhaps a canary, and some that requests pin. `clear` closes all.

    Args:
        max_pinned: how many pinned versions a model may have; the least recently used one makes room.
        close: closes a version that nobody uses any more.
    """

    def __init__(self, max_pinned: int, close: Callable[[LoadedVersion], None]):
        self._max_pinned = max_pinned
        self._close = close
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()  # held for moments only, never while loading or closing

    # leases

    def lease(
        self,
        name: str,
        version: int | None = None,
        watch: CanaryWatch | None = None,
        by_canary: bool = False,
    ) -> Lease | None:
        """A lease on the stable version or on another; None where it is not loaded.

        Args:
            watch: learns of the request when the lease ends.
            by_canary: whether the canary answers it.
        """
        with self._lock:
            entry = self._find(name, version)
            if entry is None:
                return None
            entry.leases += 1
            if version and version in (pinned := self._models[name].pinned):
                pinned.move_to_end(version)
        return Lease(self, entry, watch, by_canary)

    def _release(self, entry: _Entry) -> None:
        with self._lock:
            entry.leases -= 1
            over = entry.retired and not entry.leases
        if over:  # closing waits for threads and the caller may be an event loop, so another thread does it
            threading.Thread(target=self._close, args=(entry.loaded,), name="close").start()

    # what is loaded

    def get(self, name: str, version: int | None = None) -> LoadedVersion | None:
        """The stable version or another, without a lease; None where it is not loaded."""
        with self._lock:
            entry = self._find(name, version)
            return entry.loaded if entry else None

    def names(self) -> list[str]:
        """The models of which something was ever loaded."""
        with self._lock:
            return list(self._models)

    def loaded(self, name: str) -> dict[int, LoadedVersion]:
        """All loaded versions of a model by their numbers."""
        with self._lock:
            model = self._models.get(name) or _Model()
            return {version: entry.loaded for version, entry in model.entries.items()}

    def tryout(self, name: str) -> Tryout | None:
        """The canary of a model, and what is watched of it."""
        model = self._models.get(name)
        return model.tryout if model else None

    def canary(self, name: str) -> int | None:
        """The version that is the canary of a model."""
        tryout = self.tryout(name)
        return tryout.canary.version if tryout else None

    def pinned(self, name: str) -> frozenset[int]:
        """The versions that are kept loaded for requests that pin them."""
        with self._lock:
            model = self._models.get(name) or _Model()
            return frozenset(model.pinned)

    # changes

    def add(self, loaded: LoadedVersion) -> None:
        """Hold a version that was loaded. It takes the place, and the roles, of an older loading of it."""
        manifest = loaded.manifest
        with self._lock:
            entries = self._models.setdefault(manifest.name, _Model()).entries
            before = entries.get(manifest.version)
            entries[manifest.version] = _Entry(loaded)
        self._let_go(before)

    def serve(self, name: str, version: int) -> None:
        """Make a version that is held the stable one, in one step."""
        with self._lock:
            model = self._models[name]
            assert version in model.entries
            model.stable = version

    def try_out(self, name: str, tryout: Tryout | None) -> None:
        """Make a version that is held the canary; None ends the canary."""
        with self._lock:
            model = self._models.setdefault(name, _Model())
            assert tryout is None or tryout.canary.version in model.entries
            model.tryout = tryout

    def pin(self, name: str, version: int) -> None:
        """Keep a version that is held for requests that pin it."""
        with self._lock:
            model = self._models[name]
            assert version in model.entries
            model.pinned[version] = None
            crowded = len(model.pinned) > self._max_pinned
            least_used = model.pinned.popitem(last=False)[0] if crowded else None
        if least_used is not None:
            self.retire(name, least_used)

    def unpin(self, name: str, version: int) -> None:
        """Keep a version no longer for requests that pin it."""
        with self._lock:
            model = self._models.get(name)
            if model:
                model.pinned.pop(version, None)

    def retire(self, name: str, version: int) -> None:
        """Let go of a version. One that has a role stays."""
        with self._lock:
            model = self._models.get(name)
            unused = model and not model.has_role(version)
            entry = model.entries.pop(version, None) if model and unused else None
        self._let_go(entry)

    def clear(self) -> None:
        """Close every version; call it when no request runs any more."""
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            for entry in model.entries.values():
                self._close(entry.loaded)

    def _find(self, name: str, version: int | None) -> _Entry | None:
        model = self._models.get(name)
        wanted = version or (model.stable if model else None)
        return model.entries.get(wanted) if model and wanted else None

    def _let_go(self, entry: _Entry | None) -> None:
        if entry is None:
            return
        with self._lock:
            entry.retired = True
            unused = not entry.leases
        if unused:
            self._close(entry.loaded)
