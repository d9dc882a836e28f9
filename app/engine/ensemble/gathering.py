"""Gathering: one answer from those of several models, which run beside each other."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

P = TypeVar("P")
T = TypeVar("T")


def gather(members: "Sequence[Future[list[P]]]", combine: Callable[[Sequence[P]], T]) -> "Future[list[T]]":
    """What `combine` makes of each text's answers, one of each member, once all members are done.

    It is called on the thread that gives the last answer. The first error is the result's, and ends
    the others' work, as cancelling the result does.
    """
    result: Future[list[T]] = Future()
    left = len(members)
    lock = threading.Lock()

    def done(member: "Future[list[P]]") -> None:
        nonlocal left
        if member.cancelled():
            return
        if error := member.exception():
            with suppress(InvalidStateError):  # another failed before, or nobody waits any more
                result.set_exception(error)
            return
        with lock:
            left -= 1
            last = left == 0
        if last and not result.done():
            with suppress(InvalidStateError):  # nobody waits any more
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
