"""Checks: loading versions, and remembering what came of it for each folder as it was."""

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial

from app.engine.session import CUDA
from app.errors import VersionRefused
from app.lifecycle.loading import LoadedVersion, LoadOptions, load_version
from app.lifecycle.repository import Fingerprint, Repository
from app.manifest import Manifest
from app.metrics import Metrics

log = logging.getLogger("nerve.lifecycle")


@dataclass(frozen=True)
class Check:
    """The outcome of loading a version from its folder as it was.

    Attributes:
        manifest: of a version that passed.
        refused: why one did not.
    """

    fingerprint: Fingerprint
    manifest: Manifest | None = None
    refused: str | None = None


class Checker:
    """Loads the versions of a repository, and counts and logs how that went."""

    def __init__(self, repository: Repository, options: LoadOptions, metrics: Metrics):
        self._repository = repository
        self._options = options
        self._metrics = metrics
        self._checks: defaultdict[str, dict[int, Check]] = defaultdict(dict)

    def outcomes(self, name: str) -> dict[int, Check]:
        """What came of each version of a model that was ever loaded."""
        return dict(self._checks.get(name, {}))

    def current(self, name: str, version: int) -> Check | None:
        """The outcome for a version's folder as it is now; None where that was not tried yet."""
        check = self._checks.get(name, {}).get(version)
        if check and check.fingerprint == self._repository.fingerprint(name, version):
            return check
        return None

    def load(self, name: str, version: int) -> LoadedVersion:
        """Load a version; it is the caller's to close.

        Raises:
            NotFound: there is no such version. VersionRefused: it fails its checks.
        """
        folder = self._repository.path(name, version)
        fingerprint = self._repository.fingerprint(name, version)
        started = time.perf_counter()
        try:
            report = partial(self._metrics.batch, name, str(version))
            loaded = load_version(folder, self._options, report)
        except VersionRefused as error:
            before = self._checks[name].get(version)
            self._checks[name][version] = Check(fingerprint, refused=error.message)
            self._metrics.load_seconds.labels(name, "refused").observe(time.perf_counter() - started)
            if not before or before.refused != error.message:
                log.warning("version refused: %s", error.message)
            raise
        seconds = time.perf_counter() - started
        self._checks[name][version] = Check(fingerprint, manifest=loaded.manifest)
        self._metrics.load_seconds.labels(name, "loaded").observe(seconds)
        log.info(
            "%s/%d passed its checks in %.2f s (%s on %s, %d threads)",
            name,
            version,
            seconds,
            loaded.variant.precision,
            loaded.provider,
            loaded.threads,
        )
        if hint := fp16_hint(loaded.manifest, loaded.provider):
            log.warning("%s", hint)
        return loaded


def fp16_hint(manifest: Manifest, provider: str) -> str:
    """How to make the file that a GPU is best at, where a version runs on one without it; else empty."""
    recipe = manifest.lineage.get("recipe_file")
    if provider != CUDA or not recipe or any(v.precision == "fp16" for v in manifest.variants):
        return ""
    student = f" --student {manifest.name}" if manifest.lineage.get("student") else ""
    return (
        f"{manifest.name}/{manifest.version} runs on a GPU without an fp16 file; this makes a version that "
        f"has one: nerve-train export {recipe}{student} --set export.fp16=true"
    )
