"""Steps: what a plan is made of. Each says what to do with one model, and does nothing by itself."""

from dataclasses import dataclass

from app.versions.rollout.desired import Canary, Shadow


@dataclass(frozen=True)
class TakeOut:
    """Take a version out of all its roles, since its session keeps failing."""

    version: int


@dataclass(frozen=True)
class Abort:
    """Take the canary out of its role, since its own rule says so."""

    version: int
    reason: str


@dataclass(frozen=True)
class Check:
    """Learn by a sandbox load whether a version may be loaded into this process."""

    version: int


@dataclass(frozen=True)
class Load:
    """Load a version into this process: to answer requests, or in the background, to run copies."""

    version: int
    background: bool = False


@dataclass(frozen=True)
class Serve:
    """Make a loaded version the stable one."""

    version: int


@dataclass(frozen=True)
class Renew:
    """Give the stable version a new session, as its own keeps failing and no other version can serve."""

    version: int


@dataclass(frozen=True)
class Settle:
    """Write down which version is stable, as no state says which should be."""

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
    """Give a version that is loaded in the background copies of a share of the requests."""

    shadow: Shadow


@dataclass(frozen=True)
class EndShadow:
    """Give a version no copies any more, and close it."""

    version: int


@dataclass(frozen=True)
class Retire:
    """Let go of a version that has no role: it closes when its last lease ends."""

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
