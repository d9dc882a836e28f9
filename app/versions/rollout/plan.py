"""Plan: the steps that lead from what is loaded to what should serve.

`plan` is a pure function of values. It gives the steps that are known by now. What a check, a load or a
write brings is known once it was tried, so the reconciler carries the steps out and asks again, until there
are none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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

Outcome = Literal["passed", "refused", "untried"]
"""What is known of a version's folder as it is now. What passed may be loaded into this process."""


@dataclass(frozen=True)
class Loaded:
    """The versions of one model that are loaded in this process, and their roles.

    Attributes:
        versions: those that can answer requests, whatever their roles.
        stable: the version that answers.
        canary: the version that answers a share of the requests, and by which rule.
        pinned: the versions that are kept loaded for requests that pin them.
        shadows: the versions that get copies, and the percentage of requests that each is given.
        failing: the versions whose sessions keep failing, and that were not yet taken out for it.
        spent: the versions that were taken out for it, and may get a new session where they serve on.
        verdict: why the canary should be aborted by its own rule; None where it should not.
    """

    versions: frozenset[int] = frozenset()
    stable: int | None = None
    canary: Canary | None = None
    pinned: frozenset[int] = frozenset()
    shadows: Mapping[int, float] = field(default_factory=dict)
    failing: frozenset[int] = frozenset()
    spent: frozenset[int] = frozenset()
    verdict: str | None = None

    @property
    def usable(self) -> frozenset[int]:
        """The versions that can be given a role as they are."""
        return self.versions - self.failing - self.spent


def plan(
    desired: Deployment, loaded: Loaded, outcomes: Mapping[int, Outcome], torn: bool = False
) -> list[Step]:
    """The next steps, in order. There are none where all is as it should be, or as near to it as can be.

    Args:
        desired: what should serve.
        loaded: what this process has of it.
        outcomes: for each version that lies in the folder, what is known of it. While a version serves,
            those that are not `needed` may be left out.
        torn: whether the state cannot be read, so that `desired` is what it said last. What serves goes on;
            where nothing serves, a version is chosen, and nothing is written down.
    """
    if loaded.failing or loaded.verdict:  # what is written down for them changes what is desired
        return _withdrawals(loaded)
    steps = _stable(desired, loaded, outcomes, torn)
    if not torn:
        steps += _canary(desired.canary, loaded, outcomes)
        steps += _shadows(desired.shadow, loaded, outcomes)
    steps = list(dict.fromkeys(steps))  # a version of two roles is checked and loaded once
    return steps + _retirements(loaded, steps)


def needed(wanted: Deployment, loaded: Loaded) -> list[Load]:
    """The loads without which this process cannot serve all of a deployment."""
    answering = [Load(version) for version in sorted(wanted.answering - loaded.usable)]
    copied = [Load(s.version, background=True) for s in wanted.shadow if s.version not in loaded.shadows]
    return answering + copied


def candidates(desired: Deployment, loaded: Loaded, found: Iterable[int]) -> list[int]:
    """The versions that may become stable, the best first. Where nothing serves, any will do.

    Args:
        found: the versions in the folder.
    """
    wanted = [desired.stable]
    if loaded.stable is None:
        wanted += [desired.previous, *sorted(found, reverse=True)]
    return list(dict.fromkeys(version for version in wanted if version))


def shortfalls(
    desired: Deployment,
    loaded: Loaded,
    found: Iterable[int],
    refusals: Mapping[int, str],
    torn: bool = False,
) -> list[str]:
    """What of the desired state this process cannot serve, and why, where no steps are left.

    Args:
        found: the versions in the folder.
        refusals: why versions were refused.
    """

    def lacking(what: str, versions: Sequence[int]) -> str:
        reasons = [refusals[version] for version in sorted(refusals) if version in versions]
        return f"{what} {', '.join(map(str, versions))}: {'; '.join(reasons) or 'it is not there'}"

    problems = []
    if loaded.stable is None:
        problems.append(lacking("should serve", candidates(desired, loaded, found)))
    elif not torn and desired.stable not in (None, loaded.stable):
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
    serving = loaded.stable
    settled = desired.stable is not None or torn
    if serving is None or (not torn and desired.stable not in (None, serving)):
        for version in candidates(desired, loaded, outcomes):
            ready = _ready(version, loaded, outcomes)
            if ready is None:
                continue
            if Check(version) in ready:
                return ready
            return [*ready, Serve(version), *([] if settled else [Settle(version)])]
    if serving is None:
        return []
    steps: list[Step] = [Renew(serving)] if serving in loaded.spent else []
    return steps if settled else [*steps, Settle(serving)]


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
    """What makes a version ready for a role: nothing, a load, or first a check; None if nothing does."""
    if version in loaded.usable:
        return []
    outcome = outcomes.get(version)
    if outcome == "passed":
        return [Load(version)]
    return [Check(version)] if outcome == "untried" else None


def _retirements(loaded: Loaded, steps: Sequence[Step]) -> list[Step]:
    """What to let go of once the steps have been carried out."""
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
