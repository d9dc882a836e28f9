"""Reading: the texts of requests become rows, or their requests are told why not."""

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
    """The rows of each part. A part has none if nobody waits for its request, or if it cannot be read.

    All parts are read together. Texts without windows are answered at once. Where a text breaks the
    tokenizer, its request alone fails.
    """
    parts = [_dropped(part) if part.request.abandoned else part for part in parts]
    try:
        return list(zip(parts, _rows(reader, parts), strict=True))
    except BaseException as error:  # a Rust panic is no Exception
        if len(parts) > 1:  # which of them it is shows when each is alone
            return [read for part in parts for read in read_parts(reader, [part])]
        known = error if isinstance(error, NerveError) else None
        for part in parts:
            part.request.fail(known or InferenceFailed(f"the tokenizer failed: {error!r}"))
        return [(part, []) for part in parts]


def _dropped(part: Part) -> Part:
    """A part that nobody waits for, without its texts."""
    part.request.fail(DeadlineExceeded("the request's deadline passed before its texts were read"))
    return part._replace(texts=())


def _rows(reader: Reader, parts: Sequence[Part]) -> list[list[Row]]:
    """The rows of each part."""
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
    """Reads the texts of large requests on a thread of its own, some at a time, so that the first run
    meanwhile and others have their turn.

    Whoever makes it closes it.

    Args:
        name: of the thread.
        begin: called first on it.
    """

    def __init__(self, reader: Reader, dispatcher: Dispatcher, name: str, begin: Callable[[], None]):
        self._reader = reader
        self._dispatcher = dispatcher
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)
        self._closed = False

    def send(self, request: Request[Any], texts: Sequence[str]) -> None:
        """Read the texts of a request that was admitted.

        Raises:
            NotReady: it is closed.
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
        """Read all that has come, then end."""
        self._closed = True
        self._pool.shutdown()

    def _read(self, request: Request[Any], texts: Sequence[str], first: int) -> None:
        """Queue the rows of some of a request's texts; others have their turn before the rest."""
        while True:
            some = texts[first : first + READ_TOGETHER]
            last = first + READ_TOGETHER >= len(texts)
            part = Part(request, first, some, request.unread if last else self._reader.expected(some))
            ((_, rows),) = read_parts(self._reader, [part])
            if request.result.done():  # nobody waits for the rest
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
            except RuntimeError:  # the thread ends: what was begun is finished here
                pass
