"""Requests hold texts, and texts hold rows, on their way through the batching."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Generic, TypeVar

from app.engine.batching.size_classes import Flow
from app.engine.text.reader import ReadText
from app.engine.text.windows import Logits, Window, stitch
from app.errors import NerveError

T = TypeVar("T")


class Result(Future[T]):
    """Is the future of a request's answers. An error or a cancellation also drops the rest of its work.

    Args:
        forget: drops the rows of the request that have not run.
    """

    def __init__(self, forget: Callable[[], None]):
        super().__init__()
        self._forget = forget

    def cancel(self) -> bool:
        """Cancel the request, and drop what has not run."""
        cancelled = super().cancel()
        if cancelled:
            self._forget()
        return cancelled

    def set_exception(self, exception: BaseException | None) -> None:
        """Fail the request, and drop what has not run."""
        super().set_exception(exception)
        self._forget()


class Request(Generic[T]):
    """Holds the state of one request.

    Attributes:
        result: the future of the answers.
        decode: turns texts whose logits are complete into answers.
        deadline: when the caller stops waiting, on the clock of `time.monotonic()`; infinity for never.
        seconds: the seconds that it had until its deadline when it was admitted.
        read: the number of sub-tokens of its texts that were read so far.
        flow: its rows in the queue.
        unread: the expected number of sub-tokens of its texts that are not read yet; the dispatcher
            updates it.
        lock: guards the fields of it and of its texts that several threads change.
    """

    __slots__ = (
        "_answers",
        "_left",
        "deadline",
        "decode",
        "flow",
        "lock",
        "read",
        "result",
        "seconds",
        "unread",
    )

    def __init__(
        self,
        decode: Callable[[Sequence["Text"]], list[T]],
        deadline: float | None,
        texts: int,
        tokens: int,
        forget: Callable[[Flow], None],
    ):
        self.flow = Flow(tokens)
        self.result: Result[list[T]] = Result(partial(forget, self.flow))  # it must not hold the request
        self.decode = decode
        self.deadline = inf if deadline is None else deadline
        self.seconds = inf
        self.read = 0
        self.unread = tokens
        self.lock = threading.Lock()
        self._answers: list[Any] = [None] * texts
        self._left = texts

    @property
    def abandoned(self) -> bool:
        """Say whether it has failed, was cancelled, or is past its deadline."""
        return self.flow.cancelled or (self.deadline != inf and time.monotonic() > self.deadline)

    def fail(self, error: Exception) -> None:
        """Fail the request, unless it has ended already."""
        with suppress(InvalidStateError):  # it was cancelled meanwhile
            # A trace leads to frames that hold the request: a cycle, which would keep its texts in memory.
            known = isinstance(error, NerveError)
            self.result.set_exception(error.with_traceback(None) if known else error)

    def answer(self, number: int, answer: T) -> None:
        """Take the answer of one of its texts; the last one completes the result."""
        with self.lock:
            self._answers[number] = answer
            self._left -= 1
            complete = not self._left
        if complete:
            with suppress(InvalidStateError):  # it was cancelled meanwhile
                self.result.set_result(self._answers)


class Text:
    """Holds one text of a request.

    Attributes:
        number: its place in the request.
        windows: the number of its windows.
        logits: shape (decisions, tags), filled window by window; None before the first.
    """

    __slots__ = ("_left", "encoded", "logits", "number", "request", "windows")

    def __init__(self, request: Request[Any], number: int, read: ReadText):
        self.request = request
        self.number = number
        self.encoded = read.encoded
        self.windows = self._left = len(read.windows)
        self.logits: Logits | None = None

    def take(self, window: Window, row: Logits, prefix: int) -> None:
        """Take over the logits of one of its windows from the window's row; see `stitch`."""
        if self.windows == 1:
            self.logits = stitch(None, window, self.encoded.firsts, row, prefix)
            return
        with self.request.lock:
            self.logits = stitch(self.logits, window, self.encoded.firsts, row, prefix)

    def ran(self) -> bool:
        """Count one of its windows as done; return whether all are."""
        if self.windows == 1:
            return True
        with self.request.lock:
            self._left -= 1
            return not self._left


class Row:
    """Holds one window of a text while it waits and runs.

    Attributes:
        ids, shapes: see `RowLike`.
        length: sub-tokens, special tokens included.
        deadline: the deadline of its request.
        since: the time of `time.perf_counter()` from which on it waits.
        tokenize_seconds: its share of the seconds that reading its texts took.
    """

    __slots__ = ("deadline", "ids", "length", "shapes", "since", "text", "tokenize_seconds", "window")

    def __init__(self, text: Text, window: Window, specials: int, since: float):
        self.text = text
        self.window = window
        self.ids = text.encoded.ids[window.start : window.end]
        self.shapes = text.encoded.shapes[window.start : window.end]
        self.length = window.end - window.start + specials
        self.deadline = text.request.deadline
        self.since = since
        self.tokenize_seconds = 0.0


def answer(texts: Sequence[Text]) -> None:
    """Decode texts whose logits are complete, and give the answers to their requests.

    Texts of requests with the same `decode` are decoded together.
    """
    alike: dict[Any, list[Text]] = {}
    for text in texts:
        if not text.request.flow.cancelled:
            alike.setdefault(text.request.decode, []).append(text)
    for decode, some in alike.items():
        try:
            answers = decode(some)
        except Exception as error:
            for text in some:
                text.request.fail(error)
            continue
        for text, one in zip(some, answers, strict=True):
            text.request.answer(text.number, one)
