from typing import get_args

import pytest

from app import main
from app.api.statuses import STATUSES, documented
from app.errors import Kind, NerveError


def kinds_of(root: type[NerveError]) -> list[type[NerveError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds_of(child))]


def test_every_kind_has_a_status() -> None:
    assert set(STATUSES) == set(get_args(Kind))
    assert all(400 <= status <= 599 for status in STATUSES.values())


@pytest.mark.parametrize("error", kinds_of(NerveError))
def test_every_error_of_the_server_is_of_a_kind_in_the_table(error: type[NerveError]) -> None:
    assert main  # which brings in every room that has errors of its own
    assert error.kind in STATUSES


def test_every_status_that_a_caller_reads_is_documented() -> None:
    read = {status for kind, status in STATUSES.items() if kind != "client_left"}
    assert set(documented(*read)) >= read
