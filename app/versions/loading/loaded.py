"""Loaded versions have passed every check and can answer."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.model import Model, Network
from app.manifest import Manifest, Variant


@dataclass(frozen=True)
class MemberVariants:
    """Holds the variants that an ensemble runs, one of each member."""

    variants: tuple[Variant, ...]

    @property
    def precision(self) -> str:
        """Return the different precisions of the members, such as `int8` or `fp32+int8`."""
        return "+".join(sorted({variant.precision for variant in self.variants}))


@dataclass(frozen=True)
class LoadedVersion:
    """Holds a version that passed every check, and how it runs.

    Attributes:
        sha256: SHA-256 of the version's manifest.json.
        threads: total threads of the version, or of all members of an ensemble.
        runs: batches at a time, among which the threads are divided.
        model: model that answers; other versions may use it too.
        release: called by `close`.
    """

    manifest: Manifest
    sha256: str
    variant: Variant | MemberVariants
    provider: str
    threads: int
    runs: int
    model: Model
    release: Callable[[], None] = field(repr=False, compare=False)

    def close(self) -> None:
        """Give the version back. Networks that no other version uses finish their queues and close.

        A second call does nothing.
        """
        self.release()


@dataclass(frozen=True)
class LoadedSingle(LoadedVersion):
    """Holds a single network that passed every check."""

    variant: Variant
    model: Network
