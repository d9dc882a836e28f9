"""Intake: how texts come in. They are admitted, tokenized, cut into windows and queued.

Single short texts wait until a runner chooses its next batch, and are tokenized together then: that takes a
fraction of what each would take by itself. All others are tokenized on a thread of their own, some at a
time, so that the first run meanwhile and others have their turn.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from typing import Any

from app.engine.batching.queue import Flow
from app.engine.batching.rows import Job, Row, Text, answer
from app.engine.batching.runner import Scheduler
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import cut_windows
from app.errors import DeadlineExceeded, InferenceFailed, NerveError, NotReady
from app.manifest import Manifest

_CHARACTERS_PER_TOKEN = 4.0
"""What is thought of texts before any was seen."""

_SHORT = 1_000
"""Characters up to which a request's only text waits to be tokenized with others: a fraction of a
millisecond each."""

_SLICE = 32
"""Texts that are tokenized at a time."""

_CLOSED = "this model version is closed; send the request again"


class Intake:
    """Brings the texts of jobs to a scheduler.

    Args:
        name: of its thread.
        begin: called first on it.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        scheduler: Scheduler[Row],
        name: str,
        begin: Callable[[], None],
    ):
        self._size = manifest.max_length - tokenizer.specials
        self._stride = manifest.stride
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._characters_per_token = _CHARACTERS_PER_TOKEN
        self._unread: deque[tuple[Job[Any], str]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)
        self._closing = False

    def expected(self, texts: Sequence[str]) -> int:
        """Sub-tokens that texts will have, special ones included, as others had."""
        return int(sum(map(len, texts)) / self._characters_per_token) + len(texts)

    def send(self, job: "Job[Any]", texts: Sequence[str]) -> None:
        """Bring a job's texts in. The job fails where `Scheduler.admit` does."""
        left = None if job.deadline is None else job.deadline - time.monotonic()
        try:
            self._scheduler.admit(job.tokens, left)
        except NerveError as error:
            job.fail(error)
            return
        try:
            if len(texts) == 1 and len(texts[0]) <= _SHORT:
                self._unread.append((job, texts[0]))
                self._scheduler.announce()
            else:
                self._pool.submit(self._start, job, texts, 0)
        except (NerveError, RuntimeError) as error:  # a pool that has ended, or can start no thread
            self._withdraw(job, job.tokens)
            job.fail(NotReady(_CLOSED) if self._closing else error)
            if isinstance(error, NerveError):
                self.drop()  # nobody will queue it

    def prepare(self) -> list[tuple[Flow, list[Row]]]:
        """The windows of single short texts that have come, to be queued."""
        some: list[tuple[Job[Any], int, list[str]]] = []
        with suppress(IndexError):  # there is no more
            while len(some) < _SLICE:
                job, text = self._unread.popleft()
                some.append((job, 0, [text]))
        if self._unread:
            try:
                self._scheduler.announce()
            except NotReady:
                self.drop()
        queued = self._read(some)
        for job, _, _ in some:
            self._withdraw(job, job.tokens)
        return queued

    def close(self) -> None:
        """Queue all that has come in but single short texts, of which the scheduler knows."""
        self._closing = True
        self._pool.shutdown()

    def drop(self) -> None:
        """Fail what no thread is left to queue."""
        with suppress(IndexError):  # there is no more
            while True:
                self._unread.popleft()[0].fail(NotReady(_CLOSED))

    def _start(self, job: "Job[Any]", texts: Sequence[str], first: int) -> None:
        """Queue some of a job's texts; others have their turn before the rest."""
        while True:
            some = texts[first : first + _SLICE]
            for flow, rows in self._read([(job, first, some)]):
                try:
                    self._scheduler.submit(flow, rows)
                except NerveError as error:
                    job.fail(error)
            first += _SLICE
            last = first >= len(texts) or job.result.done()
            self._withdraw(job, job.tokens if last else self.expected(some))
            if last:
                return
            try:
                self._pool.submit(self._start, job, texts, first)
                return
            except RuntimeError:  # the pool ends: what was begun is finished here
                pass

    def _withdraw(self, job: "Job[Any]", tokens: int) -> None:
        """Of what was admitted of a job, so much, or what is left, is queued or will never be."""
        part = min(job.admitted, tokens)
        job.admitted -= part
        self._scheduler.withdraw(job.tokens, part)

    def _read(self, parts: Sequence[tuple["Job[Any]", int, Sequence[str]]]) -> list[tuple[Flow, list[Row]]]:
        """The windows of texts, by requests. Nothing is lost: who fails is told.

        Args:
            parts: a job, some of its texts, and the number of the first of these in it.
        """
        awaited = []
        for job, first, texts in parts:
            if job.abandoned:
                job.fail(DeadlineExceeded("the request's deadline passed before its texts were read"))
            else:
                awaited.append((job, first, texts))
        try:
            rows = self._rows(awaited)
        except BaseException as error:  # a Rust panic is no Exception
            if len(awaited) > 1:  # which of them it is shows when each is alone
                return [queued for part in awaited for queued in self._read([part])]
            for job, _, _ in awaited:
                job.fail(
                    error
                    if isinstance(error, NerveError)
                    else InferenceFailed(f"the tokenizer failed: {error!r}")
                )
            return []
        return [(job.flow, some) for (job, _, _), some in zip(awaited, rows, strict=True) if some]

    def _rows(self, parts: Sequence[tuple["Job[Any]", int, Sequence[str]]]) -> list[list[Row]]:
        """The windows of each part's texts; blank ones, which have none, are answered."""
        started = time.perf_counter()
        encoded = iter(self._tokenizer.encode([text for _, _, texts in parts for text in texts]))
        now = time.perf_counter()
        blank: list[Text] = []
        every: list[list[Row]] = []
        for job, first, texts in parts:
            rows: list[Row] = []
            for number, one in enumerate(islice(encoded, len(texts)), first):
                text = Text(job, number, one)
                windows = cut_windows(len(one), self._size, self._stride) if len(one.firsts) else []
                text.windows = text.left = len(windows)
                if not windows:
                    blank.append(text)
                for window in windows:
                    length = window.end - window.start + self._tokenizer.specials
                    rows.append(Row(text, window, length, now, 0.0))
            every.append(rows)
        if count := sum(map(len, every)):
            for row in chain.from_iterable(every):
                row.tokenize_seconds = (now - started) / count
            characters = sum(len(text) for _, _, texts in parts for text in texts)
            self._measure(characters, sum(row.length for row in chain.from_iterable(every)))
        answer(blank)
        return every

    def _measure(self, characters: int, tokens: int) -> None:
        """How many characters a sub-token has, among recent texts."""
        share = min(1.0, tokens / 10_000)
        self._characters_per_token += share * (max(characters, 1) / tokens - self._characters_per_token)
