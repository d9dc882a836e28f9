import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Message

from app.api.waiting import Deadline, answer_of
from app.errors import ClientLeft, DeadlineExceeded, InferenceFailed


async def stays() -> Message:
    """A caller who waits for ever."""
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody has was set")


def run(coroutine: Coroutine[Any, Any, int]) -> int:
    """What a coroutine gives, and it leaves no task behind."""

    async def alone() -> int:
        try:
            return await coroutine
        finally:
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(alone())


async def given_in_time(answer: Coroutine[Any, Any, int], deadline: float | None) -> int:
    async with Deadline(deadline):
        return await answer


# answers


def test_an_answer_that_is_there() -> None:
    future: Future[int] = Future()
    future.set_result(5)
    assert run(answer_of(future, stays)) == 5


def test_an_answer_that_a_thread_gives_later() -> None:
    asked = threading.Event()

    async def ask() -> int:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(lambda: asked.wait(60) and 5)
            asyncio.get_running_loop().call_later(0.2, asked.set)  # by then the caller is looked for
            return await answer_of(future, stays) or 0

    assert run(ask()) == 5


@pytest.mark.parametrize("early", [True, False])
def test_a_failure_is_raised(early: bool) -> None:
    future: Future[int] = Future()

    async def ask() -> int:
        if early:
            future.set_exception(InferenceFailed("no"))
        else:
            asyncio.get_running_loop().call_soon(future.set_exception, InferenceFailed("no"))
        return await answer_of(future, stays)

    with pytest.raises(InferenceFailed):
        run(ask())


def test_a_caller_who_leaves_frees_the_work() -> None:
    future: Future[int] = Future()
    messages = iter([{"type": "http.request", "more_body": False}, {"type": "http.disconnect"}])

    async def leaves() -> Message:
        return next(messages)

    with pytest.raises(ClientLeft):
        run(answer_of(future, leaves))
    assert future.cancelled()


def test_whoever_is_cancelled_frees_the_work() -> None:
    future: Future[int] = Future()

    async def ask() -> int:
        task = asyncio.ensure_future(answer_of(future, stays))
        await asyncio.sleep(0)
        task.cancel()
        return await task

    with pytest.raises(asyncio.CancelledError):
        run(ask())
    assert future.cancelled()


def test_work_that_others_cancel_is_no_answer() -> None:
    future: Future[int] = Future()

    async def ask() -> int:
        asyncio.get_running_loop().call_soon(future.cancel)
        return await answer_of(future, stays)

    with pytest.raises(CancelledError):
        run(ask())


# deadlines


def test_at_the_deadline_the_work_is_freed() -> None:
    future: Future[int] = Future()
    with pytest.raises(DeadlineExceeded, match="X-Request-Timeout-Ms"):
        run(given_in_time(answer_of(future, stays), time.monotonic() + 0.01))
    assert future.cancelled()


def test_a_deadline_that_has_passed() -> None:
    with pytest.raises(DeadlineExceeded):
        run(given_in_time(answer_of(Future[int](), stays), time.monotonic() - 1))


@pytest.mark.parametrize("deadline", [None, 3600])
def test_what_is_there_in_time_is_given(deadline: float | None) -> None:
    future: Future[int] = Future()

    async def ask() -> int:
        asyncio.get_running_loop().call_soon(future.set_result, 5)
        at = None if deadline is None else time.monotonic() + deadline
        return await given_in_time(answer_of(future, stays), at)

    assert run(ask()) == 5


def test_another_timeout_is_not_the_deadline() -> None:
    async def fails() -> int:
        raise TimeoutError("a lock")

    with pytest.raises(TimeoutError, match="a lock"):
        run(given_in_time(fails(), time.monotonic() + 3600))
