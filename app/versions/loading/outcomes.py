"""Outcomes of checks and loads are remembered, each with the state of the version's folder."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from app.errors import NotChecked, VersionRefused
from app.manifest import Manifest, read_manifest
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import Loader
from app.versions.loading.options import LoadOptions
from app.versions.loading.sandbox import sandbox_load
from app.versions.loading.variants import fp16_hint
from app.versions.storage.repository import Fingerprint, Repository

log = logging.getLogger("nerve.lifecycle")

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
"""Seconds until a version that could not be checked is tried again; each pause is twice the one before."""


@dataclass(frozen=True)
class Check:
    """Holds the outcome of a check or a load of a version.

    Attributes:
        fingerprint: state of the version's folder at that time.
        manifest: manifest of the version, if it passed.
        refused: why the version was refused, if it did not pass.
        undecided: why the version could not be checked or loaded, if that is not its own fault.
        again_at: when it is tried again if it is undecided, on the clock of `time.monotonic()`.
    """

    fingerprint: Fingerprint
    manifest: Manifest | None = None
    refused: str | None = None
    undecided: str | None = None
    again_at: float = 0.0

    @property
    def pauses(self) -> bool:
        """Say whether it is too early to try an undecided version again."""
        return self.undecided is not None and time.monotonic() < self.again_at


class Checker:
    """Checks and loads the versions of a repository, and counts, logs and remembers each outcome."""

    def __init__(self, repository: Repository, options: LoadOptions, metrics: Metrics):
        self._repository = repository
        self._options = options
        self._metrics = metrics
        self._checks: defaultdict[str, dict[int, Check]] = defaultdict(dict)
        self._loader = Loader(options, lambda model, version: partial(metrics.batch, model, str(version)))
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._turns: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)
        self._pauses: dict[tuple[str, int], tuple[Fingerprint, float]] = {}
        """The last pause after each version that could not be checked; a load ends the series."""

    def outcomes(self, name: str) -> dict[int, Check]:
        """Return the last outcome of each version of a model that was checked or loaded."""
        return dict(self._checks.get(name, {}))

    def current(self, name: str, version: int) -> Check | None:
        """Return the outcome for the present state of a version's folder, or None if there is none yet."""
        check = self._checks.get(name, {}).get(version)
        if check and check.fingerprint == self._fingerprint(name, version):
            return check
        return None

    def check(self, name: str, version: int) -> None:
        """Load a version in a sandbox, whatever the outcome was before.

        Raises:
            NotFound: there is no such version.
            VersionRefused: the version fails its checks.
            NotChecked: it could not be checked, for a reason that is not its own fault.
            NotReady: `stop` was called.
        """
        folder = self._repository.path(name, version)
        with self._outcome(name, version) as passed:
            sandbox_load(folder, self._options, stop=self._stop)
            passed(read_manifest(folder))
            log.info("%s/%d passed its checks", name, version)

    def ensure(self, name: str, version: int, again: bool = False) -> None:
        """Check a version, unless it has passed with the present state of its folder.

        Args:
            again: whether to repeat the check at once if it was refused with the present state of its
                folder, or could not be checked; by default it is refused at once, or not tried before the
                end of a pause, so that a machine without memory does not load it all the time.

        Raises:
            NotFound, VersionRefused, NotChecked, NotReady: see `check`.
        """
        with self._lock:
            turn = self._turns[name, version]
        with turn:  # one thread checks a version at a time, and the next finds its outcome
            check = self.current(name, version)
            if check and check.refused and not again:
                raise VersionRefused(check.refused)
            if check and check.undecided and check.pauses and not again:
                raise NotChecked(check.undecided)
            if not check or not check.manifest:
                self.check(name, version)

    def load(self, name: str, version: int, background: bool = False) -> LoadedVersion:
        """Load a version into this process. The caller must close it.

        Args:
            background: whether to run it at low priority; see `Loader.load`.

        Raises:
            NotFound: there is no such version.
            VersionRefused: the version fails its checks.
            NotChecked: this process could not load it, for a reason that is not the version's fault.
        """
        folder = self._repository.path(name, version)
        with self._outcome(name, version) as passed:
            loaded = self._loader.load(folder, background=background)
            passed(loaded.manifest)
        self._pauses.pop((name, version), None)
        log.info(
            "%s/%d is loaded (%s on %s, %d threads%s)",
            name,
            version,
            loaded.variant.precision,
            loaded.provider,
            loaded.threads,
            ", in the background" if background else "",
        )
        if hint := fp16_hint(loaded.manifest, loaded.provider):
            log.warning("%s", hint)
        return loaded

    def refuse(self, name: str, version: int, reason: str) -> None:
        """Note that a version failed in service: it is refused until it changes or passes a check."""
        self._note(name, version, Check(self._fingerprint(name, version), refused=reason))

    def stop(self) -> None:
        """Stop the running checks, and let no other begin."""
        self._stop.set()

    @contextmanager
    def _outcome(self, name: str, version: int) -> Iterator[Callable[[Manifest], None]]:
        """Measure the time of a check or a load, and remember its outcome."""
        fingerprint = self._fingerprint(name, version)
        started = time.perf_counter()

        def done(outcome: str, check: Check) -> None:
            self._metrics.load_seconds.labels(name, outcome).observe(time.perf_counter() - started)
            self._note(name, version, check)

        try:
            yield lambda manifest: done("loaded", Check(fingerprint, manifest=manifest))
        except VersionRefused as error:
            self._metrics.swaps.labels(name, "refused").inc()
            done("refused", Check(fingerprint, refused=error.message))
            raise
        except NotChecked as error:
            pause = self._pause(name, version, fingerprint)
            reason = f"{error.message}; it will be tried again"
            done("undecided", Check(fingerprint, undecided=reason, again_at=time.monotonic() + pause))
            raise NotChecked(reason) from error

    def _fingerprint(self, name: str, version: int) -> Fingerprint:
        """Return the state of a version's folder, and of the list of what is revoked."""
        found = self._repository.fingerprint(name, version)
        revoked = self._options.revoked
        with suppress(OSError):
            if revoked:
                stat = revoked.stat()
                return (*found, (str(revoked), stat.st_size, stat.st_mtime_ns))
        return found

    def _pause(self, name: str, version: int, fingerprint: Fingerprint) -> float:
        """Return how many seconds to wait after another time that a version could not be checked."""
        before, pause = self._pauses.get((name, version), (fingerprint, 0.0))
        pause = min(_LONGEST_PAUSE, 2 * pause if pause and before == fingerprint else _FIRST_PAUSE)
        self._pauses[name, version] = fingerprint, pause
        return pause

    def _note(self, name: str, version: int, check: Check) -> None:
        before = self._checks[name].get(version)
        self._checks[name][version] = check
        if check.refused and (not before or before.refused != check.refused):
            log.warning("version refused: %s", check.refused)
        if check.undecided and (not before or before.undecided != check.undecided):
            log.warning("%s", check.undecided)
