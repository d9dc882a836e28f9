"""Registry: the versions that are loaded, lent to requests.

A request holds a lease on the version it started with, so a swap fails no request and mixes no
versions inside one. A version that has no role any more is closed when its last lease ends.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from app.versions.loading.loaded import LoadedVersion


@dataclass
class Lease:
    """One loaded version and how many requests use it."""

    loaded: LoadedVersion
    users: int = 0
    retired: bool = False


@dataclass
class _Model:
    """The roles of one model's versions: each is loaded once, whatever its roles are."""

    leases: dict[int, Lease] = field(default_factory=dict)
    stable: int | None = None
    canary: int | None = None
    pinned: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def sweep(self) -> list[Lease]:
        """Take out the versions without a role."""
        roles = {self.stable, self.canary, *self.pinned}
        return [self.leases.pop(version) for version in list(self.leases) if version not in roles]


class Registry:
    """Of each model a stable version, perhaps a canary, and some that requests pin. `clear` closes all.

    Args:
        max_pinned: of the pinned ones the least recently used leaves above this number.
        close: closes a version that nobody uses any more.
    """

    def __init__(self, max_pinned: int, close: Callable[[LoadedVersion], None]):
        self._max_pinned = max_pinned
        self._close = close
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()  # held for moments only, never while loading or closing

    def lend(self, name: str, version: int | None = None) -> Lease | None:
        """The stable version or another, until `give_back`; None where it is not loaded."""
        with self._lock:
            lease = self._find(name, version)
            if lease:
                lease.users += 1
                if version and version in (pinned := self._models[name].pinned):
                    pinned.move_to_end(version)
            return lease

    def give_back(self, lease: Lease) -> None:
        with self._lock:
            lease.users -= 1
            over = lease.retired and not lease.users
        if over:  # on a thread of its own: closing waits for threads, the caller may be an event loop
            threading.Thread(target=self._close, args=(lease.loaded,), name="close").start()

    def get(self, name: str, version: int | None = None) -> LoadedVersion | None:
        """The stable version or another, only to look at; None where it is not loaded."""
        with self._lock:
            lease = self._find(name, version)
            return lease.loaded if lease else None

    def canary(self, name: str) -> int | None:
        """The version that answers a share, once it is loaded."""
        with self._lock:
            model = self._models.get(name)
            return model.canary if model else None

    def names(self) -> list[str]:
        """Models of which something is loaded."""
        with self._lock:
            return list(self._models)

    def loaded(self, name: str) -> dict[int, LoadedVersion]:
        """All loaded versions of a model by their numbers."""
        with self._lock:
            model = self._models.get(name) or _Model()
            return {version: lease.loaded for version, lease in model.leases.items()}

    def pin(self, loaded: LoadedVersion) -> None:
        """Keep a version loaded for requests that pin it."""

        def change(model: _Model) -> None:
            model.pinned[loaded.manifest.version] = None
            while len(model.pinned) > self._max_pinned:
                model.pinned.popitem(last=False)

        self._change(loaded.manifest.name, change, loaded)

    def unpin(self, name: str, version: int) -> None:
        """Keep a version loaded no longer for requests that pin it."""
        self._change(name, lambda model: model.pinned.pop(version, None))

    def serve(self, loaded: LoadedVersion) -> bool:
        """Make a version the stable one, in one step; whether it was not before."""
        before = self.get(loaded.manifest.name)

        def change(model: _Model) -> None:
            model.stable = loaded.manifest.version

        self._change(loaded.manifest.name, change, loaded)
        return before is not loaded

    def try_out(self, name: str, loaded: LoadedVersion | None) -> None:
        """Make a version the canary; None ends it."""

        def change(model: _Model) -> None:
            model.canary = loaded.manifest.version if loaded else None

        self._change(name, change, loaded)

    def clear(self) -> None:
        """Close every version; call it when no request runs any more."""
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            for lease in model.leases.values():
                self._close(lease.loaded)

    def _find(self, name: str, version: int | None) -> Lease | None:
        model = self._models.get(name)
        wanted = version or (model.stable if model else None)
        return model.leases.get(wanted) if model and wanted else None

    def _change(
        self, name: str, change: Callable[[_Model], object], loaded: LoadedVersion | None = None
    ) -> None:
        """Change roles; a version that they bring takes the place of an older loading of it."""
        gone = []
        with self._lock:
            model = self._models.setdefault(name, _Model())
            if loaded:
                version = loaded.manifest.version
                there = model.leases.get(version)
                if there is None or there.loaded is not loaded:
                    gone += [there] if there else []
                    model.leases[version] = Lease(loaded)
            change(model)
            gone += model.sweep()
            for lease in gone:
                lease.retired = True
            idle = [lease for lease in gone if not lease.users]
        for lease in idle:
            self._close(lease.loaded)
