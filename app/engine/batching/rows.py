"""Jobs: the requests of a predictor on their way, with their texts and windows."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.batching.queue import Flow
from app.engine.text.tokenizer import EncodedText
from app.engine.text.windows import Window
from app.engine.text.words import Ints

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
        left: texts without one.
        lock: of what several threads change of it and of its texts.
    """

    __slots__ = ("admitted", "answers", "deadline", "flow", "left", "lock", "read", "result", "tokens")

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
        self.lock = threading.Lock()

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

    def ran(self) -> bool:
        """One of its windows has; whether all have."""
        with self.job.lock:
            self.left -= 1
            return not self.left


class Row:
    """One window of one text; see `app.engine.batching.runner.TimedRow`."""

    __slots__ = ("length", "since", "text", "tokenize_seconds", "window")

    def __init__(self, text: Text, window: Window, length: int, since: float, tokenize_seconds: float):
        self.text = text
        self.window = window
        self.length = length
        self.since = since
        self.tokenize_seconds = tokenize_seconds

    @property
    def ids(self) -> Ints:
        return self.text.encoded.ids[self.window.start : self.window.end]

    @property
    def shapes(self) -> Ints:
        return self.text.encoded.shapes[self.window.start : self.window.end]

    @property
    def abandoned(self) -> bool:
        return self.text.job.abandoned


def answer(texts: Sequence[Text]) -> None:
    """Make the answers of texts whose logits are there, and give them to whom they complete."""
    by_read: dict[Any, list[Text]] = {}
    for text in texts:
        if not text.job.result.done():
            by_read.setdefault(text.job.read, []).append(text)
    for read, alike in by_read.items():
        try:
            answers = read(alike)
        except Exception as error:
            for text in alike:
                text.job.fail(error)
            continue
        for text, one in zip(alike, answers, strict=True):
            job = text.job
            with job.lock:
                job.answers[text.number] = one
                job.left -= 1
                complete = not job.left
            if complete:
                with suppress(InvalidStateError):  # nobody waits any more
                    job.result.set_result(job.answers)
