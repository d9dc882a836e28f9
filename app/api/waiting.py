"""Waiting: waits for an answer until the deadline, while the caller stays connected."""

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from starlette.types import Receive

from app.api.failures import MORE_TIME
from app.errors import ClientLeft, DeadlineExceeded

T = TypeVar("T")

_PATIENCE = 0.1
"""Seconds before the caller's connection is watched. Watching needs a task, which is not worth it for a
request that is answered sooner."""


class Deadline:
    """Cancels its block at a deadline: `async with Deadline(deadline)`.

    Args:
        at: the time on the clock of `time.monotonic()`; None sets no limit.

    Raises:
        DeadlineExceeded: the block had not ended in time.
    """

    __slots__ = ("_limit",)

    def __init__(self, at: float | None):
        self._limit = asyncio.timeout(None if at is None else at - time.monotonic())

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the answer was not there in time; allow more {MORE_TIME}, send less at once, or come "
                "again when the server has less to do"
            ) from None


async def answer_of(future: "Future[T]", receive: Receive) -> T:
    """Return the result of other threads' work. The future is cancelled if the caller closes the connection
    or this coroutine is cancelled.

    Args:
        receive: the request's ASGI function; the body has been read.

    Raises:
        ClientLeft: the caller closed the connection. Exception: the work failed with it.
    """
    if future.done():
        try:
            return future.result()
        finally:
            del future  # an error's trace holds this frame, and the future the error
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def settled(error: BaseException | None = None) -> None:
        if not waiter.done():
            waiter.set_exception(error) if error else waiter.set_result(None)

    def done(_: "Future[T]") -> None:
        with suppress(RuntimeError):  # the loop has ended
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
        del future
