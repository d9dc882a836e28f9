"""Shelf: the versions that are loaded, lent to requests.

A request holds a lease on the version it started with, so a swap fails no request and mixes no
versions inside one. A version that leaves the shelf is closed when its last lease ends.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from app.lifecycle.loading import LoadedVersion


@dataclass
class Lease:
    """One loaded version and how many requests use it."""

    loaded: LoadedVersion
    users: int = 0
    retired: bool = False


@dataclass
class _Model:
    stable: Lease | None = None
    pinned: OrderedDict[int, Lease] = field(default_factory=OrderedDict)

    def find(self, version: int | None) -> Lease | None:
        if version is None or (self.stable and self.stable.loaded.manifest.version == version):
            return self.stable
        return self.pinned.get(version)


class Shelf:
    """Of each model one stable version, and some that requests pin. `clear` closes them all.

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
        """The stable version or a pinned one, until `give_back`; None where it is not loaded."""
        with self._lock:
            model = self._models.get(name)
            lease = model.find(version) if model else None
            if lease:
                lease.users += 1
                if model and version and version in model.pinned:
                    model.pinned.move_to_end(version)
            return lease

    def give_back(self, lease: Lease) -> None:
        with self._lock:
            lease.users -= 1
            over = lease.retired and not lease.users
        if over:  # on a thread of its own: closing waits for threads, the caller may be an event loop
            threading.Thread(target=self._close, args=(lease.loaded,), name="close").start()

    def get(self, name: str, version: int | None = None) -> LoadedVersion | None:
        """The stable version or a pinned one, only to look at; None where it is not loaded."""
        with self._lock:
            model = self._models.get(name)
            lease = model.find(version) if model else None
            return lease.loaded if lease else None

    def names(self) -> list[str]:
        """Models of which something is loaded."""
        with self._lock:
            return list(self._models)

    def loaded(self, name: str) -> dict[int, LoadedVersion]:
        """All loaded versions of a model by their numbers."""
        with self._lock:
            model = self._models.get(name) or _Model()
            leases = [*model.pinned.values(), *([model.stable] if model.stable else [])]
            return {lease.loaded.manifest.version: lease.loaded for lease in leases}

    def pin(self, loaded: LoadedVersion) -> None:
        """Keep a version loaded for requests that pin it."""
        with self._lock:
            pinned = self._models.setdefault(loaded.manifest.name, _Model()).pinned
            pinned[loaded.manifest.version] = Lease(loaded)
            surplus = max(0, len(pinned) - self._max_pinned)
            gone = [pinned.popitem(last=False)[1] for _ in range(surplus)]
        for lease in gone:
            self._retire(lease)

    def serve(self, loaded: LoadedVersion) -> bool:
        """Make a version the stable one, in one step; whether it was not before."""
        with self._lock:
            model = self._models.setdefault(loaded.manifest.name, _Model())
            lease = model.pinned.pop(loaded.manifest.version, None)
            old = model.stable
            if old and old.loaded is loaded:
                return False
            model.stable = lease if lease and lease.loaded is loaded else Lease(loaded)
        if old:
            self._retire(old)
        return True

    def clear(self) -> None:
        """Close every version; call it when no request runs any more."""
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            for lease in (model.stable, *model.pinned.values()):
                if lease:
                    self._close(lease.loaded)

    def _retire(self, lease: Lease) -> None:
        with self._lock:
            lease.retired = True
            idle = not lease.users
        if idle:
            self._close(lease.loaded)
