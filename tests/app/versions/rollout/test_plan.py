"""The plan, on a process that is only imagined: steps are carried out on values, and asked for again."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.versions.rollout.desired import Canary, Deployment, Shadow
from app.versions.rollout.plan import Loaded, Outcome, candidates, needed, plan, shortfalls
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

VERSIONS = range(1, 6)

MANY = settings(max_examples=150)  # some of what may be is rare, and values cost little


@dataclass
class World:
    """One model: its folder, its state and what a process has loaded.

    Attributes:
        good: the versions that pass a sandbox load.
        broken: the versions that cannot be loaded into this process, even if they passed.
        hindered: the versions whose checks come to no outcome, by no fault of theirs.
        outcomes: for each version in the folder, what is known of it.
        writable: whether the state can be written.
        seen: every step that was carried out.
    """

    desired: Deployment
    loaded: Loaded
    outcomes: dict[int, Outcome]
    good: set[int] = field(default_factory=lambda: set(VERSIONS))
    broken: set[int] = field(default_factory=set)
    hindered: set[int] = field(default_factory=set)
    torn: bool = False
    writable: bool = True
    seen: list[Step] = field(default_factory=list)

    def settle(self) -> None:
        """Carry plans out until none has a step that was not tried in vain."""
        vain = set[Step]()
        for _ in range(100):
            steps = plan(self.desired, self.loaded, self.outcomes, self.torn)
            assert len(set(steps)) == len(steps)
            steps = [step for step in steps if step not in vain]
            if not steps:
                return
            for step in steps:
                self.seen.append(step)
                if not self.take(step):
                    vain.add(step)
                    break
        raise AssertionError(f"goes on for ever: {steps}")

    def take(self, step: Step) -> bool:
        """Carry out a step; whether it could be."""
        loaded = self.loaded
        match step:
            case TakeOut(version):
                assert version in loaded.failing
                spent = loaded.spent | ({version} & loaded.versions)
                self.loaded = replace(
                    loaded,
                    failing=loaded.failing - {version},
                    spent=spent,
                    pinned=loaded.pinned - {version},
                )
                if self.write(self.desired.without(version)) and version in self.outcomes:
                    self.outcomes[version] = "refused"
            case Abort(version):
                assert loaded.canary
                assert loaded.canary.version == version
                assert loaded.verdict
                self.loaded = replace(loaded, canary=None, verdict=None)
                self.write(self.desired.without_canary(version))
            case Check(version):
                assert self.outcomes[version] == "untried"
                self.outcomes[version] = "passed" if version in self.good else "refused"
                if version in self.hindered:
                    self.outcomes[version] = "undecided"
            case Load(version, background):
                assert self.outcomes[version] == "passed"
                if version in self.broken:
                    self.outcomes[version] = "refused"
                    return False
                if background:
                    assert version not in loaded.shadows
                    self.loaded = replace(loaded, shadows={**loaded.shadows, version: 0})
                else:
                    assert version not in loaded.usable
                    versions, spent = loaded.versions | {version}, loaded.spent - {version}
                    self.loaded = replace(loaded, versions=versions, spent=spent)
            case Serve(version, awaited):
                assert version in loaded.usable
                assert version != loaded.stable
                self.loaded = replace(loaded, stable=version, awaited=awaited)
            case Renew(version):
                assert version == loaded.stable
                self.loaded = replace(loaded, spent=loaded.spent - {version})
            case Settle(version):
                assert not self.torn
                assert self.desired.stable is None
                return self.write(self.desired.with_stable(version))
            case SetCanary(canary):
                now = loaded.canary
                assert canary.version in loaded.usable or (now and now.version == canary.version)
                self.loaded = replace(loaded, canary=canary)
            case EndCanary():
                self.loaded = replace(loaded, canary=None)
            case SetShadow(shadow):
                assert shadow.version in loaded.shadows
                self.loaded = replace(loaded, shadows={**loaded.shadows, shadow.version: shadow.percent})
            case EndShadow(version):
                shadows = {v: percent for v, percent in loaded.shadows.items() if v != version}
                self.loaded = replace(loaded, shadows=shadows)
            case Retire(version):
                canary = loaded.canary.version if loaded.canary else None
                assert version in loaded.versions
                assert version not in {loaded.stable, canary} | loaded.pinned
                versions, spent = loaded.versions - {version}, loaded.spent - {version}
                self.loaded = replace(loaded, versions=versions, spent=spent)
        return True

    def write(self, deployment: Deployment) -> bool:
        """Write the state; whether that changed it."""
        if self.torn or not self.writable or deployment == self.desired:
            return False
        self.desired = deployment.model_copy(update={"generation": self.desired.generation + 1})
        return True


versions = st.integers(VERSIONS[0], VERSIONS[-1])
sets = st.frozensets(versions)
shares = st.sampled_from([1.0, 50.0])


@st.composite
def deployments(draw: st.DrawFn) -> Deployment:
    stable = draw(st.none() | versions)
    others = versions.filter(lambda version: version != stable)
    return Deployment(
        stable=stable,
        previous=draw(st.none() | versions),
        canary=draw(st.none() | st.builds(Canary, version=others, percent=shares)),
        shadow=tuple(
            draw(
                st.lists(
                    st.builds(Shadow, version=others, percent=shares),
                    unique_by=lambda s: s.version,
                    max_size=2,
                )
            )
        ),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    held = draw(sets)
    of_held = st.sampled_from(sorted(held)) if held else st.nothing()
    shadows = draw(st.dictionaries(versions, shares, max_size=2))
    failing = draw(sets) & (held | set(shadows))
    canary = draw(st.none() | st.builds(Canary, version=of_held, percent=shares))
    loaded = Loaded(
        versions=held,
        stable=draw(st.none() | of_held),
        canary=canary,
        pinned=draw(sets) & held,
        shadows=shadows,
        failing=failing,
        spent=(draw(sets) & held) - failing,
        awaited=draw(sets),
        verdict=draw(st.none() | st.just("errors: too many")) if canary else None,
    )
    known: st.SearchStrategy[Outcome] = st.sampled_from(["passed", "refused", "untried", "undecided"])
    return World(
        desired=draw(deployments()),
        loaded=loaded,
        outcomes=draw(st.dictionaries(versions, known)),
        good=set(draw(sets)),
        broken=set(draw(sets)),
        hindered=set(draw(sets)),
        torn=draw(st.booleans()),
        writable=draw(st.booleans()),
    )


@MANY
@given(worlds())
def test_from_any_state_the_plan_comes_to_an_end(world: World) -> None:
    world.settle()
    canary = {world.loaded.canary.version} if world.loaded.canary else set()
    assert world.loaded.versions == ({world.loaded.stable} - {None}) | canary | world.loaded.pinned
    assert not world.loaded.failing
    assert world.loaded.stable not in world.loaded.spent


@MANY
@given(worlds())
def test_what_should_serve_does_if_it_can(world: World) -> None:
    world.settle()
    stable, loaded = world.desired.stable, world.loaded
    if not world.torn and stable is not None:
        assert world.outcomes.get(stable) != "untried" or loaded.stable == stable
        if world.outcomes.get(stable) == "passed":
            assert loaded.stable == stable
    if not world.torn:
        wanted = world.desired.canary
        if wanted and world.outcomes.get(wanted.version) == "passed":
            assert loaded.canary == wanted
        assert loaded.canary in (None, wanted)
        assert loaded.shadows == {
            shadow.version: shadow.percent
            for shadow in world.desired.shadow
            if shadow.version in loaded.shadows or world.outcomes.get(shadow.version) == "passed"
        }


@MANY
@given(worlds())
def test_something_serves_if_anything_can(world: World) -> None:
    world.settle()
    if world.loaded.stable is None:
        assert set(world.outcomes.values()) <= {"refused", "undecided"}


@MANY
@given(worlds())
def test_nothing_is_written_down_because_a_version_could_not_be_checked(world: World) -> None:
    """An older version may serve meanwhile, and gives way once the better one is checked."""
    world.loaded = Loaded()
    first = world.desired
    world.settle()
    better = candidates(first, Loaded(), world.outcomes)
    unknown = [version for version in better if world.outcomes.get(version) == "undecided"]
    for step in world.seen:
        assert not isinstance(step, TakeOut | Abort)
        if isinstance(step, Settle):
            assert not set(better[: better.index(step.version)]) & set(unknown)
    if world.desired != first:
        assert any(isinstance(step, Settle) for step in world.seen)

    world.hindered.clear()
    world.outcomes.update(dict.fromkeys(unknown, "untried"))
    world.settle()
    best = next((version for version in better if world.outcomes.get(version) == "passed"), None)
    assert world.loaded.stable == best
    if first.stable is None and world.writable and not world.torn:
        assert world.desired.stable == best


@MANY
@given(worlds(), versions)
def test_a_state_that_names_a_version_is_not_changed_where_it_cannot_be_checked(
    world: World, version: int
) -> None:
    world.loaded = replace(world.loaded, failing=frozenset(), verdict=None)
    world.desired = Deployment(stable=version, previous=world.desired.previous)
    world.hindered = set(VERSIONS)
    before = world.desired
    world.settle()
    assert world.desired == before


@MANY
@given(worlds())
def test_a_version_that_serves_is_only_ever_replaced(world: World) -> None:
    before = world.loaded.stable
    world.settle()
    assert before is None or world.loaded.stable is not None


@MANY
@given(worlds())
def test_what_was_refused_is_given_no_role(world: World) -> None:
    refused = {
        version for version, outcome in world.outcomes.items() if outcome in ("refused", "undecided")
    }
    before = world.loaded
    world.settle()
    for step in world.seen:
        match step:
            case Load(version):
                assert version not in refused
            case Serve(version):
                assert version not in refused - before.versions
            case SetCanary(canary):
                assert canary.version not in refused - before.versions


@MANY
@given(worlds(), versions)
def test_a_refusal_changes_nothing_that_serves(world: World, version: int) -> None:
    loaded = replace(
        world.loaded, failing=frozenset(), spent=frozenset(), awaited=frozenset(), verdict=None
    )
    if loaded.stable is None or version in loaded.versions:
        return
    desired = Deployment(stable=version, canary=loaded.canary if version != loaded.stable else None)
    desired = desired.model_copy(
        update={"shadow": tuple(Shadow(version=v, percent=p) for v, p in loaded.shadows.items())}
    )
    steps = plan(desired, loaded, {**world.outcomes, version: "refused"})
    assert all(isinstance(step, Retire) for step in steps)
    (problem, *_) = shortfalls(desired, loaded, VERSIONS, {version: "ner-en/9: is damaged"})
    assert problem == f"should serve {version}: ner-en/9: is damaged; {loaded.stable} serves"


@MANY
@given(worlds())
def test_a_torn_state_keeps_what_serves(world: World) -> None:
    loaded = replace(world.loaded, failing=frozenset(), awaited=frozenset(), verdict=None)
    steps = plan(world.desired, loaded, world.outcomes, torn=True)
    if loaded.stable is not None:
        assert all(isinstance(step, Retire | Renew) for step in steps)
    assert not any(isinstance(step, Settle | SetCanary | EndCanary | EndShadow) for step in steps)


@MANY
@given(worlds())
def test_an_operators_change_loads_all_that_it_names(world: World) -> None:
    loaded = world.loaded
    for load in needed(world.desired, loaded):
        assert load.version in world.desired.versions
        loaded = (
            replace(loaded, shadows={**loaded.shadows, load.version: 0})
            if load.background
            else replace(
                loaded,
                versions=loaded.versions | {load.version},
                failing=loaded.failing - {load.version},
                spent=loaded.spent - {load.version},
            )
        )
    assert needed(world.desired, loaded) == []
    if not loaded.failing and not loaded.verdict:
        steps = plan(world.desired, loaded, dict.fromkeys(world.outcomes, "refused"))
        assert not any(isinstance(step, Check | Load) for step in steps)


@MANY
@given(worlds())
def test_while_a_version_serves_nothing_need_be_known_of_what_is_not_needed(world: World) -> None:
    if world.loaded.stable is None:
        return
    asked = {load.version for load in needed(world.desired, world.loaded)} | world.loaded.awaited
    known = {version: outcome for version, outcome in world.outcomes.items() if version in asked}
    with_less = plan(world.desired, world.loaded, known, world.torn)
    assert with_less == plan(world.desired, world.loaded, world.outcomes, world.torn)


# single steps


def outcomes(**known: Outcome) -> dict[int, Outcome]:
    return {int(version[1:]): outcome for version, outcome in known.items()}


def serving(version: int, *others: int, **more: object) -> Loaded:
    return replace(Loaded(versions=frozenset({version, *others}), stable=version), **more)  # type: ignore[arg-type]


def cases() -> Iterator[tuple[str, list[Step], list[Step]]]:
    one, two = Deployment(stable=1), Deployment(stable=2, previous=1)
    canary = Canary(version=2, percent=5)
    more = Canary(version=2, percent=50)
    yield "all is as it should be", plan(one, serving(1), {}), []
    yield "a swap", plan(two, serving(1), outcomes(v2="passed")), [Load(2), Serve(2), Retire(1)]
    yield "a swap back", plan(one, serving(2, 1), {}), [Serve(1), Retire(2)]
    yield "a check comes first", plan(two, serving(1), outcomes(v2="untried")), [Check(2)]
    yield "what is pinned stays", plan(two, serving(1, 2, pinned=frozenset({1})), {}), [Serve(2)]
    yield "no state", plan(Deployment(), serving(1), {}), [Settle(1)]
    found = outcomes(v1="passed", v2="refused", v3="untried")
    yield "a first start", plan(Deployment(), Loaded(), found), [Check(3)]
    found = outcomes(v1="passed", v2="passed", v3="refused")
    yield (
        "a start beside a bad version",
        plan(Deployment(), Loaded(), found),
        [Load(2), Serve(2), Settle(2)],
    )
    found = outcomes(v1="passed", v2="passed", v3="undecided")
    meanwhile = [Load(2), Serve(2, frozenset({3}))]
    yield (
        "a start beside a version that could not be checked",
        plan(Deployment(), Loaded(), found),
        meanwhile,
    )
    instead = serving(2, awaited=frozenset({3}))
    yield "nothing is written meanwhile", plan(Deployment(), instead, outcomes(v3="undecided")), []
    yield "it is tried again", plan(Deployment(), instead, outcomes(v3="untried")), [Check(3)]
    takes_over = [Load(3), Serve(3), Settle(3), Retire(2)]
    yield "it takes over", plan(Deployment(), instead, outcomes(v3="passed")), takes_over
    yield "it is refused after all", plan(Deployment(), instead, outcomes(v3="refused")), [Settle(2)]
    yield "an operator wants the other", plan(Deployment(stable=2), instead, outcomes(v3="passed")), []
    found = outcomes(v1="passed", v2="passed", v3="refused")
    beside = Deployment(stable=3, previous=1)
    yield "the previous version comes first", plan(beside, Loaded(), found), [Load(1), Serve(1)]
    with_canary = Deployment(stable=1, canary=canary)
    tried = serving(1, 2, canary=canary)
    yield "a canary", plan(with_canary, serving(1), outcomes(v2="passed")), [Load(2), SetCanary(canary)]
    yield "a larger share", plan(Deployment(stable=1, canary=more), tried, {}), [SetCanary(more)]
    yield "no canary", plan(one, tried, {}), [EndCanary(), Retire(2)]
    yield "a promotion", plan(two, tried, {}), [Serve(2), EndCanary(), Retire(1)]
    yield "a canary that is refused", plan(with_canary, serving(1), outcomes(v2="refused")), []
    shadow = Shadow(version=2, percent=10)
    with_shadow = Deployment(stable=1, shadow=(shadow,))
    started = [Load(2, background=True), SetShadow(shadow)]
    yield "a shadow", plan(with_shadow, serving(1), outcomes(v2="passed")), started
    yield "no shadow", plan(one, serving(1, shadows={2: 10}), {}), [EndShadow(2)]
    failing = serving(2, failing=frozenset({2}))
    yield "a version that fails", plan(two, failing, outcomes(v1="passed")), [TakeOut(2)]
    spent = serving(2, spent=frozenset({2}))
    back = [Load(1), Serve(1), Retire(2)]
    yield "the previous version comes back", plan(one, spent, outcomes(v1="passed")), back
    yield "nothing else can take its place", plan(one, spent, {}), [Renew(2)]
    both = Deployment(stable=1, canary=canary)
    renewed = [Renew(2), SetCanary(canary)]
    yield "a version of two roles is loaded once", plan(both, spent, outcomes(v2="passed")), renewed
    worse = replace(tried, verdict="errors: too many")
    yield "a canary that is worse", plan(with_canary, worse, {}), [Abort(2, "errors: too many")]


@pytest.mark.parametrize(("steps", "expected"), [pytest.param(s, e, id=name) for name, s, e in cases()])
def test_a_plan(steps: list[Step], expected: list[Step]) -> None:
    assert steps == expected


def test_where_nothing_serves_any_version_is_a_candidate() -> None:
    desired = Deployment(stable=3, previous=1)
    assert candidates(desired, Loaded(), VERSIONS) == [3, 1, 5, 4, 2]
    assert candidates(desired, serving(1), VERSIONS) == [3]


def test_what_cannot_be_had_is_told_with_its_reasons() -> None:
    desired = Deployment(
        stable=3,
        canary=Canary(version=4, percent=5),
        shadow=(Shadow(version=5, percent=5), Shadow(version=2, percent=5)),
    )
    loaded = serving(1, shadows={2: 5})
    assert shortfalls(desired, loaded, VERSIONS, {3: "m/3: is damaged", 4: "m/4: is damaged"}) == [
        "should serve 3: m/3: is damaged; 1 serves",
        "should try out 4: m/4: is damaged",
        "should have the shadow 5: it is not there",
    ]
    assert shortfalls(desired, loaded, VERSIONS, {}, torn=True) == []
    meanwhile = serving(2, awaited=frozenset({3}))
    assert shortfalls(Deployment(), meanwhile, VERSIONS, {3: "m/3: its check was killed"}) == [
        "should serve 3: m/3: its check was killed; 2 serves"
    ]
    assert shortfalls(Deployment(stable=3), Loaded(), [1], {1: "m/1: is damaged"}) == [
        "should serve 3, 1: m/1: is damaged"
    ]
