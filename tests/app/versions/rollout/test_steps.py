"""Steps are values: plans are compared, and a step that was taken in vain is known again."""

from dataclasses import fields, is_dataclass
from itertools import combinations
from typing import Any, get_args

import pytest

from app.versions.rollout import steps
from app.versions.rollout.desired import AbortRule, Canary, Shadow
from app.versions.rollout.steps import Load, SetCanary, Step

KINDS = get_args(Step)

VALUES: dict[str, Any] = {
    "version": 2,
    "reason": "errors: too many",
    "background": True,
    "awaited": frozenset({3}),
    "canary": Canary(version=2, percent=5, abort=AbortRule(requests=10, errors=1)),
    "shadow": Shadow(version=2, percent=5),
}
"""What a step may have to say."""


def made(kind: Any) -> Any:
    return kind(**{field.name: VALUES[field.name] for field in fields(kind)})


def test_every_kind_of_step_is_a_step() -> None:
    defined = {
        value
        for value in vars(steps).values()
        if is_dataclass(value) and value.__module__ == steps.__name__
    }
    assert set(KINDS) == defined


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_step_is_known_again(kind: Any) -> None:
    assert {made(kind)} == {made(kind)}


@pytest.mark.parametrize(("one", "other"), list(combinations(KINDS, 2)))
def test_different_things_to_do_are_never_the_same_step(one: Any, other: Any) -> None:
    assert made(one) != made(other)


def test_what_a_step_says_is_part_of_it() -> None:
    assert Load(2) != Load(2, background=True)
    assert SetCanary(Canary(version=2, percent=5)) != SetCanary(Canary(version=2, percent=50))
