"""Outcomes of checks and loads are remembered, each with the state of the version's folder."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from app.errors import VersionRefused
from app.manifest import Manifest, read_manifest
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import Loader
from app.versions.loading.options import LoadOptions
from app.versions.loading.sandbox import sandbox_load
from app.versions.loading.variants import fp16_hint
from app.versions.storage.repository import Fingerprint, Repository

log = logging.getLogger("nerve.lifecycle")


@dataclass(frozen=True)
class Check:
    """Holds the outcome of a check or a load of a version.

    Attributes:
        fingerprint: state of the version's folder at that time.
        manifest: manifest of the version, if it passed.
        refused: why the version was refused, if it did not pass.
        undecided: why there is no outcome, for a reason that is not the version's own; the others are None.
    """

    fingerprint: Fingerprint
    manifest: Manifest | None = None
    refused: str | None = None
    undecided: str | None = None


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

    def outcomes(self, name: str) -> dict[int, Check]:
        """Return the last outcome of each version of a model that was checked or loaded."""
        return dict(self._checks.get(name, {}))

    def current(self, name: str, version: int) -> Check | None:
        """Return the outcome for the present state of a version's folder, or None if there is none yet."""
        check = self._checks.get(name, {}).get(version)
        if check and check.fingerprint == self._repository.fingerprint(name, version):
            return check
        return None

    def check(self, name: str, version: int) -> None:
        """Load a version in a sandbox, whatever the outcome was before.

        Raises:
            NotFound: there is no such version.
            VersionRefused: the version fails its checks.
            NotReady: `stop` was called, or no process can be started, so there is no outcome.
        """
        folder = self._repository.path(name, version)
        with self._outcome(name, version) as passed:
            sandbox_load(folder, self._options, stop=self._stop)
            passed(read_manifest(folder))
            log.info("%s/%d passed its checks", name, version)

    def ensure(self, name: str, version: int, again: bool = False) -> None:
        """Check a version, unless it has passed with the present state of its folder.

        Args:
            again: whether to repeat the check if it was refused with the present state of its folder;
                by default it is refused at once.

        Raises:
            NotFound, VersionRefused, NotReady: see `check`.
        """
        with self._lock:
            turn = self._turns[name, version]
        with turn:  # one thread checks a version at a time, and the next finds its outcome
            check = self.current(name, version)
            if check and check.refused and not again:
                raise VersionRefused(check.refused)
            if not check or check.refused or check.undecided:
                self.check(name, version)

    def load(self, name: str, version: int, background: bool = False) -> LoadedVersion:
        """Load a version into this process. The caller must close it.

        Args:
            background: whether to run it at low priority; see `Loader.load`.

        Raises:
            NotFound: there is no such version.
            VersionRefused: the version fails its checks.
        """
        folder = self._repository.path(name, version)
        with self._outcome(name, version) as passed:
            loaded = self._loader.load(folder, background=background)
            passed(loaded.manifest)
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
        self._note(name, version, Check(self._repository.fingerprint(name, version), refused=reason))

    def stop(self) -> None:
        """Stop the running checks, and let no other begin."""
        self._stop.set()

    @contextmanager
    def _outcome(self, name: str, version: int) -> Iterator[Callable[[Manifest], None]]:
        """Measure the time of a check or a load, and remember its outcome."""
        fingerprint = self._repository.fingerprint(name, version)
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

    def _note(self, name: str, version: int, check: Check) -> None:
        before = self._checks[name].get(version)
        self._checks[name][version] = check
        if check.refused and (not before or before.refused != check.refused):
            log.warning("version refused: %s", check.refused)
