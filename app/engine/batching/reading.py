"""Reading turns the texts of requests into rows, or fails the requests whose texts cannot be read."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from app.engine.batching.batches import Part
from app.engine.batching.dispatcher import CLOSED, READ_TOGETHER, Dispatcher
from app.engine.batching.requests import Request, Row, Text, answer
from app.engine.text.reader import Reader
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
        known = error if isinstance(error, NerveError) else None
        for part in parts:
            part.request.fail(known or InferenceFailed(f"the tokenizer failed: {error!r}"))
        return [(part, []) for part in parts]


def _dropped(part: Part) -> Part:
    """Fail an abandoned part's request, and return the part without its texts."""
    part.request.fail(DeadlineExceeded("the request's deadline passed before its texts were read"))
    return part._replace(texts=())


def _rows(reader: Reader, parts: Sequence[Part]) -> list[list[Row]]:
    started = time.perf_counter()
    read = iter(reader.read([text for part in parts for text in part.texts]))
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
        share = (now - started) / count
        for rows in every:
            for row in rows:
                row.tokenize_seconds = share
    if blank:
        answer(blank)
    return every


class ReadingThread:
    """Reads the texts of large requests on a separate thread, a few of each request in turn.

    So the first texts run while the rest are read. Call `close` at the end.

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
            self._pool.submit(self._read, request, texts, 0)
        except RuntimeError as error:
            self._dispatcher.give_up(request)
            if self._closed:
                raise NotReady(CLOSED) from error
            raise

    def close(self) -> None:
        """Read what has been sent, then end the thread."""
        self._closed = True
        self._pool.shutdown()

    def _read(self, request: Request[Any], texts: Sequence[str], first: int) -> None:
        """Queue the rows of some of a request's texts; other requests have their turn before the rest."""
        while True:
            some = texts[first : first + READ_TOGETHER]
            last = first + READ_TOGETHER >= len(texts)
            part = Part(request, first, some, request.unread if last else self._reader.expected(some))
            ((_, rows),) = read_parts(self._reader, [part])
            if request.result.done():  # it failed or was cancelled, so the rest is not needed
                part, last = part._replace(tokens=request.unread), True
            try:
                self._dispatcher.add(part, rows)
            except NerveError as error:
                request.fail(error)
            if last:
                return
            first += READ_TOGETHER
            try:
                self._pool.submit(self._read, request, texts, first)
                return
            except RuntimeError:  # `close` was called: no more can be submitted, so the loop goes on here
                pass
