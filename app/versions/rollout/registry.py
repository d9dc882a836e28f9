"""Registry: keeps the versions that are loaded for requests, their roles, and the leases on them.

A request holds a lease on one version from start to end, so a swap of versions neither fails it nor mixes
versions in its answer. A retired version is closed when its last lease ends.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from app.versions.loading.loaded import LoadedVersion
from app.versions.rollout.canary import CanaryWatch, Tryout

_PATIENCE = 1.0
"""Seconds that a change waits for a version to close, so that its memory is mostly free before the next."""

_LAST_PATIENCE = 5.0
"""Seconds that the end waits for all versions to close."""


@dataclass
class _Entry:
    """Holds a loaded version and the number of leases on it."""

    loaded: LoadedVersion
    leases: int = 0
    retired: bool = False


@dataclass
class _Model:
    """Holds the loaded versions of one model and their roles. A version with two roles is loaded once."""

    entries: dict[int, _Entry] = field(default_factory=dict)
    stable: int | None = None
    tryout: Tryout | None = None
    pinned: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def has_role(self, version: int) -> bool:
        canary = self.tryout and self.tryout.canary.version
        return version in (self.stable, canary) or version in self.pinned


class Lease:
    """Gives the right to use a loaded version for one request. Its holder calls `release` once."""

    def __init__(self, registry: "Registry", entry: _Entry, watch: CanaryWatch | None, by_canary: bool):
        self._registry, self._entry = registry, entry
        self._watch, self._by_canary = watch, by_canary
        self._started = time.perf_counter()

    @property
    def loaded(self) -> LoadedVersion:
        """Return the leased version."""
        return self._entry.loaded

    def release(self, failed: bool | None = None) -> None:
        """Give the version back.

        Args:
            failed: whether the request failed by the server's fault; with None, the canary's rule ignores
                the request.
        """
        self._registry._release(self._entry)
        if self._watch and failed is not None:
            self._watch.record(self._by_canary, time.perf_counter() - self._started, failed)


class Registry:
    """Keeps each model's stable version, canary, and pinned versions. `clear` closes them all.

    Args:
        max_pinned: how many pinned versions a model may have; the least recently used one makes room.
        close: closes a version that is no longer used.
    """

    def __init__(self, max_pinned: int, close: Callable[[LoadedVersion], None]):
        self._max_pinned = max_pinned
        self._close = close
        self._models: dict[str, _Model] = {}
        self._closing: set[threading.Thread] = set()
        self._lock = threading.Lock()  # held for moments only, never while loading or closing

    # leases

    def lease(
        self,
        name: str,
        version: int | None = None,
        watch: CanaryWatch | None = None,
        by_canary: bool = False,
    ) -> Lease | None:
        """Return a lease on a version, by default the stable one; None if it is not loaded.

        Args:
            watch: records the request when the lease ends.
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
        if over:  # the caller may be on the event loop, which cannot wait
            self._close_aside(entry.loaded)

    # what is loaded

    def get(self, name: str, version: int | None = None) -> LoadedVersion | None:
        """Return a version, by default the stable one, without a lease; None if it is not loaded."""
        with self._lock:
            entry = self._find(name, version)
            return entry.loaded if entry else None

    def names(self) -> list[str]:
        """Return the models that ever had a version loaded."""
        with self._lock:
            return list(self._models)

    def loaded(self, name: str) -> dict[int, LoadedVersion]:
        """Return all loaded versions of a model by their numbers."""
        with self._lock:
            model = self._models.get(name) or _Model()
            return {version: entry.loaded for version, entry in model.entries.items()}

    def tryout(self, name: str) -> Tryout | None:
        """Return the canary of a model and its watch."""
        model = self._models.get(name)
        return model.tryout if model else None

    def canary(self, name: str) -> int | None:
        """Return the number of the canary of a model."""
        tryout = self.tryout(name)
        return tryout.canary.version if tryout else None

    def pinned(self, name: str) -> frozenset[int]:
        """Return the versions that are kept loaded for requests that pin them."""
        with self._lock:
            model = self._models.get(name) or _Model()
            return frozenset(model.pinned)

    # changes

    def add(self, loaded: LoadedVersion) -> None:
        """Add a loaded version. It replaces an older instance of the version in all roles."""
        manifest = loaded.manifest
        with self._lock:
            entries = self._models.setdefault(manifest.name, _Model()).entries
            before = entries.get(manifest.version)
            entries[manifest.version] = _Entry(loaded)
        self._let_go(before)

    def serve(self, name: str, version: int) -> None:
        """Make a version of the registry the stable one, in one atomic step."""
        with self._lock:
            model = self._models[name]
            assert version in model.entries
            model.stable = version

    def try_out(self, name: str, tryout: Tryout | None) -> None:
        """Make a version of the registry the canary; None ends the canary."""
        with self._lock:
            model = self._models.setdefault(name, _Model())
            assert tryout is None or tryout.canary.version in model.entries
            model.tryout = tryout

    def pin(self, name: str, version: int) -> None:
        """Keep a version of the registry for requests that pin it."""
        with self._lock:
            model = self._models[name]
            assert version in model.entries
            model.pinned[version] = None
            crowded = len(model.pinned) > self._max_pinned
            least_used = model.pinned.popitem(last=False)[0] if crowded else None
        if least_used is not None:
            self.retire(name, least_used)

    def unpin(self, name: str, version: int) -> None:
        """Stop keeping a version for requests that pin it."""
        with self._lock:
            model = self._models.get(name)
            if model:
                model.pinned.pop(version, None)

    def retire(self, name: str, version: int) -> None:
        """Remove a version, unless it has a role; it is closed when its last lease ends."""
        with self._lock:
            model = self._models.get(name)
            unused = model and not model.has_role(version)
            entry = model.entries.pop(version, None) if model and unused else None
        self._let_go(entry)

    def clear(self) -> None:
        """Close every version; call it when no request runs any more.

        Those whose sessions hang are left behind after some seconds.
        """
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            for entry in model.entries.values():
                self._close_aside(entry.loaded)
        end = time.monotonic() + _LAST_PATIENCE
        for thread in list(self._closing):
            thread.join(max(0.0, end - time.monotonic()))

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
            self._close_aside(entry.loaded).join(_PATIENCE)

    def _close_aside(self, loaded: LoadedVersion) -> threading.Thread:
        """Close a version on a thread of its own, so that nobody waits for a session that hangs."""

        def close() -> None:
            try:
                self._close(loaded)
            finally:
                self._closing.discard(thread)

        thread = threading.Thread(target=close, name="close", daemon=True)
        self._closing.add(thread)
        thread.start()
        return thread
