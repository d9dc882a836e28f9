"""Requests on their way through the batching: their texts, and the rows of these."""

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

T = TypeVar("T")


class Result(Future[T]):
    """The answers of a request, to be waited for. Whatever ends it but its answers ends the request's work.

    Args:
        forget: drops what of the request has not run.
    """

    def __init__(self, forget: Callable[[], None]):
        super().__init__()
        self._forget = forget

    def cancel(self) -> bool:
        """Wait no longer."""
        cancelled = super().cancel()
        if cancelled:
            self._forget()
        return cancelled

    def set_exception(self, exception: BaseException | None) -> None:
        """Answer with an error."""
        super().set_exception(exception)
        self._forget()


class Request(Generic[T]):
    """The texts of one request on their way.

    Attributes:
        result: the future that waits for the answers.
        decode: makes the answers of texts whose logits are there.
        deadline: when nobody waits any more, on the clock of `time.monotonic()`; infinity for never.
        flow: its rows in the queue.
        unread: sub-tokens that its texts are expected to have, of those that are not read yet. The
            dispatcher keeps count of them.
        lock: guards what several threads change of it and of its texts.
    """

    __slots__ = ("_answers", "_left", "deadline", "decode", "flow", "lock", "result", "unread")

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
        self.unread = tokens
        self.lock = threading.Lock()
        self._answers: list[Any] = [None] * texts
        self._left = texts

    @property
    def abandoned(self) -> bool:
        """Whether it failed, or nobody waits any more."""
        return self.flow.cancelled or (self.deadline != inf and time.monotonic() > self.deadline)

    def fail(self, error: Exception) -> None:
        """Answer with an error, if nothing else has been answered."""
        with suppress(InvalidStateError):  # nobody waits any more
            self.result.set_exception(error)

    def answer(self, number: int, answer: T) -> None:
        """Take the answer of one of its texts; with the last one, give all of them to whoever waits."""
        with self.lock:
            self._answers[number] = answer
            self._left -= 1
            complete = not self._left
        if complete:
            with suppress(InvalidStateError):  # nobody waits any more
                self.result.set_result(self._answers)


class Text:
    """One text of a request.

    Attributes:
        number: its place in the request.
        windows: how many it is run in.
        logits: of its decisions, shape (decisions, tags), filled window by window; None before the first.
    """

    __slots__ = ("_left", "encoded", "logits", "number", "request", "windows")

    def __init__(self, request: Request[Any], number: int, read: ReadText):
        self.request = request
        self.number = number
        self.encoded = read.encoded
        self.windows = self._left = len(read.windows)
        self.logits: Logits | None = None

    def take(self, window: Window, row: Logits, prefix: int) -> None:
        """Take the logits of one of its windows over from the window's row; see `stitch`."""
        if self.windows == 1:
            self.logits = stitch(None, window, self.encoded.firsts, row, prefix)
            return
        with self.request.lock:
            self.logits = stitch(self.logits, window, self.encoded.firsts, row, prefix)

    def ran(self) -> bool:
        """Count one of its windows as done, and say whether all are."""
        if self.windows == 1:
            return True
        with self.request.lock:
            self._left -= 1
            return not self._left


class Row:
    """One window of one text, as it waits and is run.

    Attributes:
        ids, shapes: of the window's sub-tokens; see `RowLike`.
        length: sub-tokens, special tokens included.
        deadline: the request's.
        since: `time.perf_counter()` when it could have run.
        tokenize_seconds: its share of what its text took to tokenize.
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
    """Decode texts whose logits are there, and give their requests the answers.

    Texts of requests that are decoded alike are decoded together.
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
