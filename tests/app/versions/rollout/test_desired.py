import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.versions.rollout.desired import Canary, Deployment, DeploymentChange, InvalidDeployment, Shadow

CANARY = Canary(version=4, percent=5)


def changed(before: Deployment, **fields: Any) -> Deployment:
    return DeploymentChange.model_validate_json(json.dumps(fields)).apply(before)


def test_fields_that_are_left_out_stay_and_null_clears() -> None:
    one = Deployment(stable=1)
    both = changed(
        changed(one, canary={"version": 4, "percent": 5}), shadow=[{"version": 5, "percent": 10}]
    )
    assert both == Deployment(stable=1, canary=CANARY, shadow=(Shadow(version=5, percent=10),))
    assert changed(both, canary=None) == Deployment(stable=1, shadow=both.shadow)
    assert changed(both, shadow=None) == changed(both, shadow=[]) == Deployment(stable=1, canary=CANARY)
    assert changed(both, stable=2) == both.model_copy(update={"stable": 2, "previous": 1})


def test_a_canary_or_shadow_that_becomes_stable_has_done_its_work() -> None:
    before = Deployment(stable=1, canary=CANARY, shadow=(Shadow(version=5, percent=10),))
    assert before.with_stable(4) == Deployment(stable=4, previous=1, shadow=before.shadow)
    assert before.with_stable(5) == Deployment(stable=5, previous=1, canary=CANARY)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"canary": {"version": 1, "percent": 5}}, "version 1 is the stable one; name another"),
        ({"shadow": [{"version": 1, "percent": 5}]}, "version 1 is the stable one; name another"),
        ({"shadow": [{"version": 2, "percent": 5}, {"version": 2, "percent": 6}]}, "named twice"),
    ],
)
def test_roles_that_exclude_each_other_are_refused(fields: Any, reason: str) -> None:
    with pytest.raises(InvalidDeployment, match=reason):
        changed(Deployment(stable=1), **fields)


def test_a_canary_needs_a_stable_version() -> None:
    with pytest.raises(InvalidDeployment, match="give 'stable' too"):
        changed(Deployment(), canary={"version": 4, "percent": 5})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"stable": None},
        {"stable": 0},
        {"live": 1},
        {"canary": {"version": 4}},
        {"canary": {"version": 4, "percent": 101}},
        {"canary": {"version": 4, "percent": 5, "abort": {"requests": 100}}},
        {"canary": {"version": 4, "percent": 5, "abort": {"requests": 1, "errors": 2}}},
    ],
)
def test_a_change_that_says_nothing_or_nonsense_is_none(body: Any) -> None:
    with pytest.raises(ValidationError):
        DeploymentChange.model_validate_json(json.dumps(body))


def test_what_failed_leaves_all_its_roles() -> None:
    before = Deployment(stable=3, previous=2, canary=CANARY)
    assert before.without(4) == Deployment(stable=3, previous=2)
    assert before.without(3) == Deployment(stable=2, canary=CANARY)
    assert Deployment(stable=3).without(3) == Deployment(stable=3)
    back = Deployment(stable=3, previous=2, canary=Canary(version=2, percent=5))
    assert back.without(3) == Deployment(stable=2)


versions = st.integers(1, 5)
shares = st.floats(0, 100)
changes = st.one_of(
    st.builds(lambda v: {"stable": v}, versions),
    st.builds(lambda v, p: {"canary": {"version": v, "percent": p}}, versions, shares),
    st.just({"canary": None}),
    st.builds(lambda v, p: {"shadow": [{"version": v, "percent": p}]}, versions, shares),
)


@given(st.lists(st.one_of(changes, versions), max_size=12))
def test_no_order_of_changes_makes_a_state_that_cannot_be_read(steps: list[Any]) -> None:
    state = Deployment(stable=1)
    for step in steps:
        if isinstance(step, int):
            state = state.without(step)
        else:
            with suppress(InvalidDeployment):
                state = changed(state, **step)
        assert Deployment.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize("sticky", ["text", "X-User-Id", "a" * 64])
def test_a_canary_sticks_to_the_text_or_a_header(sticky: str) -> None:
    wanted = {"version": 4, "percent": 5, "sticky": sticky}
    assert changed(Deployment(stable=1), canary=wanted).canary == Canary(**wanted)


@pytest.mark.parametrize("sticky", ["a" * 65, "x" * 1_000_000, "a header", "naïve", "a\nb", "a:"])
def test_what_no_header_can_be_called_is_refused_and_shown_shortened(sticky: str) -> None:
    with pytest.raises(
        ValidationError, match=r"canary\.sticky: .* is neither `text` nor the name"
    ) as error:
        DeploymentChange.model_validate({"canary": {"version": 4, "percent": 5, "sticky": sticky}})
    assert len(error.value.errors()[0]["msg"]) < 200


def test_a_state_of_an_older_nerve_may_have_any_sticky() -> None:
    written = '{"stable": 1, "canary": {"version": 2, "percent": 5, "sticky": "a header"}}'
    assert Deployment.model_validate_json(written).canary


@pytest.mark.parametrize(
    "change",
    [{"stable": 10**19}, {"shadow": [{"version": v, "percent": 1} for v in range(2, 19)]}],
)
def test_a_change_is_bounded(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeploymentChange.model_validate_json(json.dumps(change))
