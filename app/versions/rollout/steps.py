"""Steps: a plan's values. Each says what to do with one model; the reconciler does it."""

from dataclasses import dataclass

from app.versions.rollout.desired import Canary, Shadow


@dataclass(frozen=True)
class TakeOut:
    """Take a version out of all its roles because its session keeps failing."""

    version: int


@dataclass(frozen=True)
class Abort:
    """End the canary because its abort rule says so."""

    version: int
    reason: str


@dataclass(frozen=True)
class Check:
    """Learn by a sandbox load whether a version may be loaded into this process."""

    version: int


@dataclass(frozen=True)
class Load:
    """Load a version into this process, for requests or (in the background) as a shadow."""

    version: int
    background: bool = False


@dataclass(frozen=True)
class Serve:
    """Make a loaded version the stable one.

    Attributes:
        awaited: the versions that would rather serve and could not be checked yet.
    """

    version: int
    awaited: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Renew:
    """Give the stable version a new session: its session keeps failing, and no other version can serve."""

    version: int


@dataclass(frozen=True)
class Settle:
    """Write down the serving version as the stable one, because the state names none."""

    version: int


@dataclass(frozen=True)
class SetCanary:
    """Let a loaded version answer a share of the requests, or change the share or the rule."""

    canary: Canary


@dataclass(frozen=True)
class EndCanary:
    """Let the stable version answer all requests."""


@dataclass(frozen=True)
class SetShadow:
    """Give a shadow that is loaded copies of a share of the requests."""

    shadow: Shadow


@dataclass(frozen=True)
class EndShadow:
    """Stop copying requests to a shadow, and close it."""

    version: int


@dataclass(frozen=True)
class Retire:
    """Remove a version that has no role; it closes when its last lease ends."""

    version: int


Step = (
    TakeOut
    | Abort
    | Check
    | Load
    | Serve
    | Renew
    | Settle
    | SetCanary
    | EndCanary
    | SetShadow
    | EndShadow
    | Retire
)
