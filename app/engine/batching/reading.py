"""Reading turns the texts of requests into rows, or fails the requests whose texts cannot be read."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from app.engine.batching.batches import Part
from app.engine.batching.dispatcher import CLOSED, Dispatcher
from app.engine.batching.requests import Request, Row, Text, answer
from app.engine.text.reader import Reader, ReadText
from app.errors import DeadlineExceeded, InferenceFailed, NerveError, NotReady


def read_parts(reader: Reader, parts: Sequence[Part]) -> list[tuple[Part, list[Row]]]:
    """Return the rows of each part; none if its request was abandoned or cannot be read.

    All parts are read together. Texts without windows are answered at once. If the tokenizer fails on a
    text, only the request of this text fails.
    """
    parts = [_dropped(part) if part.request.abandoned else part for part in parts]
    try:
        return list(zip(parts, _rows(reader, parts), strict=True))
    except BaseException as error:  # a Rust panic is no Exception
        if len(parts) > 1:  # reading each part alone shows which one fails
            return [read for part in parts for read in read_parts(reader, [part])]
        for part in parts:
            part.request.fail(_failure(error))
        return [(part, []) for part in parts]


def _failure(error: BaseException) -> NerveError:
    if isinstance(error, NerveError):
        return error
    return InferenceFailed(f"the tokenizer failed: {error!r}")


def _dropped(part: Part) -> Part:
    """Fail an abandoned part's request, and return the part without its texts."""
    _drop(part.request)
    return part._replace(texts=())


def _drop(request: Request[Any]) -> None:
    request.fail(DeadlineExceeded("the request's deadline passed before its texts were read"))


def _rows(reader: Reader, parts: Sequence[Part]) -> list[list[Row]]:
    started = time.perf_counter()
    read = iter(reader.read([text for part in parts for text in part.texts]))
    return _rows_of(reader, parts, read, time.perf_counter() - started)


def _rows_of(
    reader: Reader, parts: Sequence[Part], read: Iterator[ReadText], seconds: float
) -> list[list[Row]]:
    """Return the rows of each part, whose texts were read in some seconds, and answer blank texts."""
    now = time.perf_counter()
    blank: list[Text] = []
    every: list[list[Row]] = []
    for part in parts:
        rows: list[Row] = []
        for number, one in enumerate(islice(read, len(part.texts)), part.first):
            text = Text(part.request, number, one)
            if not one.windows:
                blank.append(text)
            rows += [Row(text, window, reader.specials, now) for window in one.windows]
        every.append(rows)
    if count := sum(map(len, every)):
        share = seconds / count
        for rows in every:
            for row in rows:
                row.tokenize_seconds = share
    if blank:
        answer(blank)
    return every


class ReadingThread:
    """Reads the texts of requests on a separate thread, a step of each request in turn.

    So the first texts run while the rest are read, and no request waits for all of another. Call `close` at
    the end.

    Args:
        name: the start of the thread's name.
        begin: called once on the thread, before anything else.
    """

    def __init__(self, reader: Reader, dispatcher: Dispatcher, name: str, begin: Callable[[], None]):
        self._reader = reader
        self._dispatcher = dispatcher
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)
        self._closed = False

    def send(self, request: Request[Any], texts: Sequence[str]) -> None:
        """Read the texts of an admitted request, later and on the thread.

        Raises:
            NotReady: the thread is closed.
            RuntimeError: the thread cannot be started.
        """
        try:
            self._pool.submit(self._read, self._steps(request, texts))
        except RuntimeError as error:
            self._dispatcher.give_up(request)
            if self._closed:
                raise NotReady(CLOSED) from error
            raise

    def close(self) -> None:
        """Read what has been sent, then end the thread."""
        self._closed = True
        self._pool.shutdown()

    def _read(self, steps: Iterator[None]) -> None:
        """Take the next step of a request; other requests have their turn before its next one."""
        for _ in steps:
            try:
                self._pool.submit(self._read, steps)
                return
            except RuntimeError:  # `close` was called: no more can be submitted, so the loop goes on here
                pass

    def _steps(self, request: Request[Any], texts: Sequence[str]) -> Iterator[None]:
        """Queue the rows of a request's texts step by step, until it ends or is abandoned."""
        try:
            yield from self._queued(request, texts)
        except BaseException as error:  # a Rust panic is no Exception
            request.fail(_failure(error))
        self._dispatcher.give_up(request)  # what is left of it, if it failed

    def _queued(self, request: Request[Any], texts: Sequence[str]) -> Iterator[None]:
        first, seconds, since = 0, 0.0, time.perf_counter()
        if request.abandoned:
            _drop(request)
            return
        for read in self._reader.read_gradually(texts):
            seconds += time.perf_counter() - since
            if read:
                end = first + len(read)
                some = texts[first:end]
                expected = request.unread if end == len(texts) else self._reader.expected(some)
                part = Part(request, first, some, expected)
                (rows,) = _rows_of(self._reader, [part], iter(read), seconds)
                self._dispatcher.add(part, rows)
                first, seconds = end, 0.0
            if first == len(texts):
                return
            yield
            if request.abandoned:
                _drop(request)
                return
            since = time.perf_counter()
