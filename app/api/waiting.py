"""Waiting for an answer: no longer than a request allows, and only while its caller is there."""

import asyncio
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from starlette.types import Receive

from app.errors import ClientLeft, DeadlineExceeded

T = TypeVar("T")

_PATIENCE = 0.1
"""Seconds that a request waits before anybody looks whether its caller is still there: looking takes a task
of its own, and what has waited for less is about to be answered."""


async def in_time(answer: Awaitable[T], deadline: float | None) -> T:
    """An answer that is given up at the deadline.

    Args:
        deadline: a point of `time.monotonic()`; None sets no limit.

    Raises:
        DeadlineExceeded: it was not there in time.
    """
    if deadline is None:
        return await answer
    limit = asyncio.timeout(deadline - time.monotonic())
    try:
        async with limit:
            return await answer
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded(
            "the answer was not there in time; allow more (X-Request-Timeout-Ms, NERVE_REQUEST_TIMEOUT), "
            "send less at once, or come again when the server has less to do"
        ) from None


async def answer_of(future: "Future[T]", receive: Receive) -> T:
    """The result of other threads' work. The future is cancelled once nobody waits for it, be it that the
    caller hung up or that this is cancelled.

    Args:
        receive: the request's, whose body has been read.

    Raises:
        ClientLeft: the caller hung up. Exception: what the work failed with.
    """
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def settled(error: BaseException | None = None) -> None:
        if not waiter.done():
            waiter.set_exception(error) if error else waiter.set_result(None)

    def done(_: "Future[T]") -> None:
        with suppress(RuntimeError):  # the loop has ended, and whoever waited with it
            loop.call_soon_threadsafe(settled)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        settled(ClientLeft("the caller hung up"))

    watchers: list[asyncio.Task[None]] = []
    patience = loop.call_later(_PATIENCE, lambda: watchers.append(loop.create_task(watch())))
    future.add_done_callback(done)
    try:
        await waiter
        return future.result()
    finally:
        patience.cancel()
        for watcher in watchers:
            watcher.cancel()
        future.cancel()
