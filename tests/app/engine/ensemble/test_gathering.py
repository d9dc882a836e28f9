from concurrent.futures import Future

import pytest

from app.engine.ensemble.gathering import gather
from app.errors import InferenceFailed


def test_the_last_answer_ends_the_wait_whatever_the_order() -> None:
    parts: list[Future[list[int]]] = [Future(), Future(), Future()]
    result = gather(parts, sum)
    for part, value in ((parts[2], 4), (parts[0], 1)):
        part.set_result([value, 10 * value])
        assert not result.done()
    parts[1].set_result([2, 20])
    assert result.result(0) == [7, 70]


def test_an_error_is_the_answer_and_ends_the_others_work() -> None:
    parts: list[Future[list[int]]] = [Future(), Future(), Future()]
    result = gather(parts, sum)
    parts[1].set_exception(InferenceFailed("broken"))
    with pytest.raises(InferenceFailed, match="broken"):
        result.result(0)
    assert parts[0].cancelled()
    assert parts[2].cancelled()


def test_cancelling_drops_all_members_work() -> None:
    parts: list[Future[list[int]]] = [Future(), Future()]
    result = gather(parts, sum)
    parts[0].set_result([1])
    result.cancel()
    assert parts[1].cancelled()
