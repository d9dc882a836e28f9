"""Sharing: what several versions have in common is loaded once and held while any of them uses it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from app.engine.text.tokenizer import Tokenizer
from app.labels import WordRule
from app.manifest import Manifest
from app.versions.loading.loaded import LoadedSingle
from app.versions.storage.repository import Fingerprint

Key = tuple[Path, Fingerprint, bool]
"""A folder, the state of its files, and whether it is loaded for the background."""


class SharedNetworks:
    """Networks that are loaded once and closed by their last user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments only, never while loading or closing
        self._shared: dict[Key, _Shared] = {}

    def take(self, key: Key, load: Callable[[], LoadedSingle]) -> LoadedSingle:
        """A network, loaded by the first who asks for it; others wait for it and share it.

        Raises:
            Whatever `load` raises, to everybody who waits. The next who asks loads anew.
        """
        with self._lock:
            shared = self._shared.get(key)
            first = shared is None or shared.broken
            if shared is None or shared.broken:
                shared = self._shared[key] = _Shared()
            shared.users += 1
        if first:
            try:
                shared.loaded.set_result(load())
            except BaseException as error:
                self._forget(key, shared)
                shared.loaded.set_exception(error)
        return replace(shared.loaded.result(), release=once(lambda: self._give_back(key, shared)))

    def _give_back(self, key: Key, shared: "_Shared") -> None:
        with self._lock:
            shared.users -= 1
            unused = not shared.users
            if unused and self._shared.get(key) is shared:
                del self._shared[key]
        if unused:
            shared.loaded.result().close()

    def _forget(self, key: Key, shared: "_Shared") -> None:
        with self._lock:
            if self._shared.get(key) is shared:
                del self._shared[key]


class _Shared:
    """A network, and the number of its users."""

    def __init__(self) -> None:
        self.users = 0
        self.loaded: Future[LoadedSingle] = Future()

    @property
    def broken(self) -> bool:
        """Whether it is loaded, and no longer of use to anyone new."""
        if not self.loaded.done() or self.loaded.exception():
            return False
        model = self.loaded.result().model
        return model.failing or not model.alive


class SharedTokenizers:
    """Tokenizers, each of which is shared by all versions that bring the same file.

    One is held while any version uses it: to read it takes long, and nothing else can run in this process
    meanwhile.
    """

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[str, WordRule], Tokenizer] = WeakValueDictionary()

    def take(self, folder: Path, manifest: Manifest) -> Tokenizer:
        """The tokenizer of a version, read where no other version holds the same."""
        key = (manifest.files[manifest.tokenizer].sha256, manifest.words)
        tokenizer = self._held.get(key)
        if tokenizer is None:
            tokenizer = Tokenizer.from_file(folder / manifest.tokenizer, manifest.words)
            self._held[key] = tokenizer
        return tokenizer


def once(call: Callable[[], None]) -> Callable[[], None]:
    """The same call, which every attempt but the first leaves out."""
    unmade = threading.Lock()
    return lambda: call() if unmade.acquire(blocking=False) else None
