"""Gathering combines the answers of several models, which run at the same time, into one."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

P = TypeVar("P")
T = TypeVar("T")


def gather(members: "Sequence[Future[list[P]]]", combine: Callable[[Sequence[P]], T]) -> "Future[list[T]]":
    """Return a future of each text's combined answer.

    `combine` gets the answers of all members for one text, on the thread that brings the last answer. The
    first error becomes the result's. An error cancels all members, as does cancelling the result.
    """
    result: Future[list[T]] = Future()
    left = len(members)
    lock = threading.Lock()

    def done(member: "Future[list[P]]") -> None:
        nonlocal left
        if member.cancelled():
            return
        if error := member.exception():
            with suppress(InvalidStateError):  # another member failed before, or the result was cancelled
                result.set_exception(error)
            return
        with lock:
            left -= 1
            last = left == 0
        if last and not result.done():
            with suppress(InvalidStateError):  # the result was cancelled
                try:
                    answers = zip(*(member.result() for member in members), strict=True)
                    combined = [combine(text) for text in answers]
                except Exception as error:
                    result.set_exception(error)
                else:
                    result.set_result(combined)

    def drop(_: "Future[list[T]]") -> None:
        for member in members:
            member.cancel()

    result.add_done_callback(drop)
    for member in members:
        member.add_done_callback(done)
    return result
