"""Jobs: the requests of a predictor on their way, with their texts and windows."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.backlog import Flow
from app.engine.tokenizer import EncodedText
from app.engine.windows import Window

T = TypeVar("T")


class Job(Generic[T]):
    """The texts of one request on their way.

    Attributes:
        result: the future that waits for them.
        read: what it waits for, of texts whose logits are there.
        deadline: when it stops waiting, on the clock of `time.monotonic()`.
        tokens: sub-tokens that it was thought to have.
        admitted: of those, what is not queued yet.
        flow: its rows in the queue.
        answers: of each text, once it is read.
    """

    __slots__ = ("admitted", "answers", "deadline", "flow", "left", "read", "result", "tokens")

    def __init__(
        self,
        result: "Future[list[T]]",
        read: Callable[[Sequence["Text"]], list[T]],
        deadline: float | None,
        texts: int,
        tokens: int,
    ):
        self.result = result
        self.read = read
        self.deadline = deadline
        self.tokens = self.admitted = tokens
        self.flow = Flow(tokens)
        self.answers: list[T | None] = [None] * texts
        self.left = texts

    @property
    def abandoned(self) -> bool:
        """Whether it has been answered, or nobody waits any more."""
        return self.result.done() or (self.deadline is not None and time.monotonic() > self.deadline)

    def fail(self, error: Exception) -> None:
        """Answer with an error, if nothing else has been answered."""
        with suppress(InvalidStateError):  # nobody waits any more
            self.result.set_exception(error)


class Text:
    """One text of a job.

    Attributes:
        logits: of its decisions, shape (decisions, tags), filled window by window.
        left: windows that have not run.
    """

    __slots__ = ("encoded", "job", "left", "logits", "number", "windows")

    def __init__(self, job: "Job[Any]", number: int, encoded: EncodedText):
        self.job = job
        self.number = number
        self.encoded = encoded
        self.windows = 0
        self.left = 0
        self.logits: npt.NDArray[np.float32] | None = None


class Row:
    """One window of one text; see `app.engine.scheduler.TimedRow`."""

    __slots__ = ("length", "since", "text", "tokenize_seconds", "window")

    def __init__(self, text: Text, window: Window, length: int, since: float, tokenize_seconds: float):
        self.text = text
        self.window = window
        self.length = length
        self.since = since
        self.tokenize_seconds = tokenize_seconds

    @property
    def abandoned(self) -> bool:
        return self.text.job.abandoned
