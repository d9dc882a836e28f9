"""Networks and tokenizers that several versions use are loaded once, and held while any uses them."""

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
"""A key is a folder, the state of its files, and whether the network runs in the background."""


class SharedNetworks:
    """Shares networks, which are loaded once and closed by their last user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # never held while a network loads or closes
        self._shared: dict[Key, _Shared] = {}

    def take(self, key: Key, load: Callable[[], LoadedSingle]) -> LoadedSingle:
        """Return a network. The first caller loads it; others wait for that load and share the network.

        Raises:
            Exception: an error of `load`, which all waiting callers get. The next caller loads anew.
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
    """Counts the users of a network."""

    def __init__(self) -> None:
        self.users = 0
        self.loaded: Future[LoadedSingle] = Future()

    @property
    def broken(self) -> bool:
        """Say whether the network is loaded and fails, so that new users need another."""
        if not self.loaded.done() or self.loaded.exception():
            return False
        model = self.loaded.result().model
        return model.failing or not model.alive


class SharedTokenizers:
    """Shares each tokenizer among all versions with an equal file, while any of them uses it.

    To read a tokenizer takes long, and blocks all other threads of the process.
    """

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[str, WordRule], Tokenizer] = WeakValueDictionary()

    def take(self, manifest: Manifest, content: bytes) -> Tokenizer:
        """Return a version's tokenizer, made of its content if no other version holds an equal one."""
        key = (manifest.files[manifest.tokenizer].sha256, manifest.words)
        tokenizer = self._held.get(key)
        if tokenizer is None:
            tokenizer = Tokenizer.from_bytes(content, manifest.words)
            self._held[key] = tokenizer
        return tokenizer


def once(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that makes the call the first time, and later does nothing."""
    unmade = threading.Lock()
    return lambda: call() if unmade.acquire(blocking=False) else None
