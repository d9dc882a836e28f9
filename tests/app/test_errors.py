import re
from typing import get_args

import pytest

from app import errors
from app.errors import (
    FAULTS,
    Busy,
    DeadlineExceeded,
    DiskFailed,
    InferenceFailed,
    Kind,
    NerveError,
    TooLarge,
)


def kinds(root: type[NerveError]) -> list[type[NerveError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


OURS = [kind for kind in kinds(NerveError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", OURS)
def test_each_error_has_a_kind_a_code_and_a_meaning(kind: type[NerveError]) -> None:
    assert kind.kind in get_args(Kind)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.__doc__


@pytest.mark.parametrize("kind", OURS)
def test_the_tree_is_drawn_whole(kind: type[NerveError]) -> None:
    drawn = f"* {kind.__name__}" + ("" if kind is NerveError else f" ({kind.kind})")
    assert drawn in (errors.__doc__ or "")


def test_a_code_may_be_more_exact() -> None:
    assert (TooLarge("x").code, TooLarge("x", "too_many_texts").code) == (
        "body_too_large",
        "too_many_texts",
    )
    assert TooLarge("x", "too_many_texts").kind == "too_large"
    assert Busy("x", 2.5).retry_after == 2.5


def test_the_servers_faults_are_those_that_no_caller_can_mend() -> None:
    at_fault = {kind for kind in OURS if kind.kind in FAULTS}
    assert at_fault == {NerveError, InferenceFailed, DiskFailed, DeadlineExceeded}
