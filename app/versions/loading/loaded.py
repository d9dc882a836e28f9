"""Loaded: versions that passed every check, with what they run on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.model import Model, Network
from app.manifest import Manifest, Variant


@dataclass(frozen=True)
class MemberVariants:
    """The variants that an ensemble runs: one of each member, and none of its own."""

    variants: tuple[Variant, ...]

    @property
    def precision(self) -> str:
        """Each precision that a member runs in, such as `int8` or `fp32+int8`."""
        return "+".join(sorted({variant.precision for variant in self.variants}))


@dataclass(frozen=True)
class LoadedVersion:
    """A version that passed every check, with what it runs on.

    Attributes:
        threads: threads that it runs on, those of all members together where it is an ensemble.
        runs: batches at a time, among which the threads are divided.
        model: the version's own, or shared with others that use it; `close` knows which.
        release: what `close` does.
    """

    manifest: Manifest
    variant: Variant | MemberVariants
    provider: str
    threads: int
    runs: int
    model: Model
    release: Callable[[], None] = field(repr=False, compare=False)

    def close(self) -> None:
        """Give the version back. What nobody else uses finishes its queue and closes.

        A second call does nothing.
        """
        self.release()


@dataclass(frozen=True)
class LoadedSingle(LoadedVersion):
    """One network that passed every check."""

    variant: Variant
    model: Network
