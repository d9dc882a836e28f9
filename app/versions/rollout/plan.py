"""Plan: computes the steps that lead from what is loaded to what should serve.

`plan` is a pure function of values. The result of a check, a load or a write is known only after it was
tried, so the reconciler carries out the steps and plans again until no steps are left.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from app.versions.rollout.desired import Canary, Deployment, Shadow
from app.versions.rollout.steps import (
    Abort,
    Check,
    EndCanary,
    EndShadow,
    Load,
    Renew,
    Retire,
    Serve,
    SetCanary,
    SetShadow,
    Settle,
    Step,
    TakeOut,
)

Outcome = Literal["passed", "refused", "untried", "undecided"]
"""What is known of a version's folder as it is now. A version that passed may be loaded here. One is
undecided if a check came to no outcome for a reason that is not its own, and is not to be repeated at once:
it is given no role, and nothing is written down because of that."""


@dataclass(frozen=True)
class Loaded:
    """Holds the versions of one model that are loaded in this process, and their roles.

    Attributes:
        versions: the versions that can answer requests, whatever their roles.
        stable: the version that answers.
        canary: the version that answers a share of the requests, with its rule.
        pinned: the versions that are kept loaded for requests that pin them.
        shadows: each shadow's share of the stable version's requests, in percent.
        failing: the versions whose sessions keep failing and that were not yet taken out.
        spent: the versions that were taken out; a new session may be tried for one that still serves.
        awaited: the versions that the stable one serves in place of, until they can be checked.
        verdict: why the canary should be aborted by its own rule; None where it should not.
    """

    versions: frozenset[int] = frozenset()
    stable: int | None = None
    canary: Canary | None = None
    pinned: frozenset[int] = frozenset()
    shadows: Mapping[int, float] = field(default_factory=dict)
    failing: frozenset[int] = frozenset()
    spent: frozenset[int] = frozenset()
    awaited: frozenset[int] = frozenset()
    verdict: str | None = None

    @property
    def usable(self) -> frozenset[int]:
        """Return the versions that can be given a role as they are."""
        return self.versions - self.failing - self.spent


def plan(
    desired: Deployment, loaded: Loaded, outcomes: Mapping[int, Outcome], torn: bool = False
) -> list[Step]:
    """Return the next steps, in order; none where the desired state is reached as far as it can be.

    Args:
        outcomes: what is known of each version in the folder. While a version serves, versions that are
            neither `needed` nor awaited may be left out.
        torn: whether the state file cannot be read, so that `desired` is its last known content. Serving
            versions then go on; if nothing serves, a version is chosen and not written down.
    """
    if loaded.failing or loaded.verdict:  # taking them out edits the desired state, so a new plan follows
        return _withdrawals(loaded)
    steps = _stable(desired, loaded, outcomes, torn)
    renewed = {step.version for step in steps if isinstance(step, Renew)}
    loaded = replace(loaded, spent=loaded.spent - renewed)
    if not torn:
        steps += _canary(desired.canary, loaded, outcomes)
        steps += _shadows(desired.shadow, loaded, outcomes)
    steps = list(dict.fromkeys(steps))  # a version of two roles is checked and loaded once
    return steps + _retirements(loaded, steps)


def needed(wanted: Deployment, loaded: Loaded) -> list[Load]:
    """Return the loads that this process lacks to serve all of a deployment."""
    answering = [Load(version) for version in sorted(wanted.answering - loaded.usable)]
    copied = [Load(s.version, background=True) for s in wanted.shadow if s.version not in loaded.shadows]
    return answering + copied


def candidates(desired: Deployment, loaded: Loaded, found: Iterable[int]) -> list[int]:
    """Return the versions that may become stable, the best first.

    They are the desired one; and where that does not serve, those that are awaited, or if nothing serves,
    any.

    Args:
        found: the versions in the folder.
    """
    wanted = [desired.stable]
    if loaded.stable is None or loaded.stable != desired.stable:
        others = [desired.previous, *sorted(found, reverse=True)]
        wanted += [v for v in others if loaded.stable is None or v in loaded.awaited]
    return list(dict.fromkeys(version for version in wanted if version))


def shortfalls(
    desired: Deployment,
    loaded: Loaded,
    found: Iterable[int],
    reasons: Mapping[int, str],
    torn: bool = False,
) -> list[str]:
    """Say which of the desired versions this process cannot serve, and why, when no steps are left.

    Args:
        found: the versions in the folder.
        reasons: for each version that was refused or could not be checked, why.
    """

    def lacking(what: str, versions: Sequence[int]) -> str:
        known = [reasons[version] for version in sorted(reasons) if version in versions]
        return f"{what} {', '.join(map(str, versions))}: {'; '.join(known) or 'it is not there'}"

    problems = []
    if loaded.stable is None:
        problems.append(lacking("should serve", candidates(desired, loaded, found)))
    elif desired.stable != loaded.stable and (loaded.awaited or not (torn or desired.stable is None)):
        problems.append(
            f"{lacking('should serve', candidates(desired, loaded, found))}; {loaded.stable} serves"
        )
    if not torn:
        canary = loaded.canary.version if loaded.canary else None
        if desired.canary and desired.canary.version != canary:
            problems.append(lacking("should try out", [desired.canary.version]))
        problems += [
            lacking("should have the shadow", [shadow.version])
            for shadow in desired.shadow
            if shadow.version not in loaded.shadows
        ]
    return problems


def _withdrawals(loaded: Loaded) -> list[Step]:
    steps: list[Step] = [TakeOut(version) for version in sorted(loaded.failing)]
    if loaded.canary and loaded.verdict:
        steps.append(Abort(loaded.canary.version, loaded.verdict))
    return steps


def _stable(desired: Deployment, loaded: Loaded, outcomes: Mapping[int, Outcome], torn: bool) -> list[Step]:
    serving, awaited = loaded.stable, set[int]()
    settled = desired.stable is not None or torn
    for version in candidates(desired, loaded, outcomes):
        if version == serving or (torn and serving is not None and version not in loaded.awaited):
            continue
        ready = _ready(version, loaded, outcomes)
        if ready is None:
            awaited |= {version} if outcomes.get(version) == "undecided" else set()
            continue
        if Check(version) in ready:
            return ready
        chosen: list[Step] = [*ready, Serve(version, frozenset(awaited))]
        return chosen if settled or awaited else [*chosen, Settle(version)]
    if serving is None:
        return []
    steps: list[Step] = [Renew(serving)] if serving in loaded.spent else []
    return steps if settled or awaited else [*steps, Settle(serving)]


def _canary(wanted: Canary | None, loaded: Loaded, outcomes: Mapping[int, Outcome]) -> list[Step]:
    now = loaded.canary
    if wanted == now:
        return []
    ended: list[Step] = [EndCanary()] if now else []
    if wanted is None:
        return ended
    if now and now.version == wanted.version:
        return [SetCanary(wanted)]
    ready = _ready(wanted.version, loaded, outcomes)
    if ready is None:
        return ended
    return ready if Check(wanted.version) in ready else [*ready, SetCanary(wanted)]


def _shadows(wanted: Sequence[Shadow], loaded: Loaded, outcomes: Mapping[int, Outcome]) -> list[Step]:
    named = {shadow.version for shadow in wanted}
    steps: list[Step] = [EndShadow(version) for version in sorted(loaded.shadows) if version not in named]
    for shadow in wanted:
        outcome = outcomes.get(shadow.version)
        if shadow.version in loaded.shadows:
            if loaded.shadows[shadow.version] != shadow.percent:
                steps.append(SetShadow(shadow))
        elif outcome == "passed":
            steps += [Load(shadow.version, background=True), SetShadow(shadow)]
        elif outcome == "untried":
            steps.append(Check(shadow.version))
    return steps


def _ready(version: int, loaded: Loaded, outcomes: Mapping[int, Outcome]) -> list[Step] | None:
    """Return the steps that make a version ready for a role; None if no step can."""
    if version in loaded.usable:
        return []
    outcome = outcomes.get(version)
    if outcome == "passed":
        return [Load(version)]
    return [Check(version)] if outcome == "untried" else None


def _retirements(loaded: Loaded, steps: Sequence[Step]) -> list[Step]:
    """Return what to retire once the steps have been carried out."""
    stable, canary = loaded.stable, loaded.canary.version if loaded.canary else None
    for step in steps:
        match step:
            case Serve(version):
                stable = version
            case SetCanary(chosen):
                canary = chosen.version
            case EndCanary():
                canary = None
    return [Retire(version) for version in sorted(loaded.versions - {stable, canary} - loaded.pinned)]
