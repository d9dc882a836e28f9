import threading
from collections.abc import Sequence
from typing import Any

import pytest

from app.engine.batching.batches import Part
from app.engine.batching.dispatcher import Dispatcher
from app.engine.batching.reading import ReadingThread, read_parts
from app.engine.batching.requests import Request, Row, Text
from app.engine.runtimes.cost import Cost
from app.engine.text.reader import Reader
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.errors import DeadlineExceeded, InferenceFailed, NotReady
from tests.servers import until
from tests.tiny import tiny_tokenizer


class Panic(BaseException):
    """As Rust's panics are."""


class Broken(Tokenizer):
    """Panics on one text."""

    calls = 0

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        self.calls += 1
        if "panic" in texts:
            raise Panic
        return super().encode(texts)


@pytest.fixture
def tokenizer() -> Broken:
    return Broken(tiny_tokenizer())


def windows(texts: Sequence[Text]) -> list[int]:
    return [text.windows for text in texts]


def part(*texts: str, deadline: float | None = None, first: int = 0, of: int = 0) -> Part:
    request: Request[Any] = Request(windows, deadline, of or len(texts), 9, lambda flow: None)
    return Part(request, first, texts, 9)


def test_texts_of_many_requests_are_read_together(tokenizer: Broken) -> None:
    parts = [part("IBM"), part("x " * 30, "New York")]
    (_, one), (_, two) = read_parts(Reader(tokenizer, 16, 4), parts)
    assert tokenizer.calls == 1
    assert [row.length for row in one] == [3]
    assert [row.length for row in two] == [16, 16, 16, 4]
    assert [row.text.number for row in two] == [0, 0, 0, 1]
    assert len({row.tokenize_seconds for row in (*one, *two)}) == 1


def test_rows_know_where_their_text_stands_in_the_request(tokenizer: Broken) -> None:
    ((_, rows),) = read_parts(Reader(tokenizer, 16, 4), [part("a", "b", first=7, of=9)])
    assert [row.text.number for row in rows] == [7, 8]


def test_a_text_without_windows_is_answered_at_once(tokenizer: Broken) -> None:
    blank = part("", " ")
    assert read_parts(Reader(tokenizer, 16, 4), [blank]) == [(blank, [])]
    assert blank.request.result.result(0) == [0, 0]


def test_a_text_that_breaks_the_tokenizer_fails_its_request_alone(tokenizer: Broken) -> None:
    good, bad = part("IBM"), part("IBM", "panic")
    (_, rows), (_, nothing) = read_parts(Reader(tokenizer, 16, 4), [good, bad])
    assert [row.text.request for row in rows] == [good.request]
    assert nothing == []
    with pytest.raises(InferenceFailed, match="Panic"):
        bad.request.result.result(0)


def test_a_late_request_is_not_read(tokenizer: Broken) -> None:
    late = part("IBM", deadline=0.0)
    ((_, rows),) = read_parts(Reader(tokenizer, 16, 4), [late])
    assert rows == []
    with pytest.raises(DeadlineExceeded):
        late.request.result.result(0)


def test_large_requests_are_read_in_turn_and_no_further_than_needed(tokenizer: Broken) -> None:
    dispatcher = Dispatcher(Cost(), 1, 10**7, 512)
    reader = Reader(tokenizer, 16, 4)
    begin, added = threading.Event(), list[Any]()
    add = dispatcher.add

    def noted(part: Part, rows: Sequence[Row]) -> None:
        added.append(part.request)
        add(part, rows)

    dispatcher.add = noted  # type: ignore[method-assign]
    thread = ReadingThread(reader, dispatcher, "texts", lambda: begin.wait(60) or None)
    requests = []
    for texts in (["x " * 100_000, "IBM"], ["IBM"] * 40, ["IBM"] * 2):
        request: Request[Any] = Request(windows, None, len(texts), 250, dispatcher.cancel)
        dispatcher.admit(request)
        thread.send(request, texts)
        requests.append(request)
    begin.set()
    until(lambda: len(added) == 5)
    thread.close()
    large, middle, small = requests
    assert added == [middle, small, middle, large, large]
    assert dispatcher.waiting_tokens > 100_000


def test_a_request_that_fails_is_read_no_further(tokenizer: Broken) -> None:
    dispatcher = Dispatcher(Cost(), 1, 10**7, 512)
    thread = ReadingThread(Reader(tokenizer, 16, 4), dispatcher, "texts", lambda: None)
    texts = [*["IBM"] * 31, "panic", *["IBM"] * 100]
    request: Request[Any] = Request(windows, None, len(texts), 250, dispatcher.cancel)
    dispatcher.admit(request)
    thread.send(request, texts)
    thread.close()
    with pytest.raises(InferenceFailed, match="Panic"):
        request.result.result(0)
    assert tokenizer.calls == 1
    assert dispatcher.idle


def test_a_closed_thread_reads_what_came_before_and_refuses_the_rest(tokenizer: Broken) -> None:
    dispatcher = Dispatcher(Cost(), 1, 10_000, 512)
    thread = ReadingThread(Reader(tokenizer, 16, 4), dispatcher, "texts", lambda: None)

    def send() -> None:
        texts = ["IBM"] * 100
        request: Request[Any] = Request(windows, None, 100, 250, dispatcher.cancel)
        dispatcher.admit(request)
        thread.send(request, texts)

    send()
    thread.close()
    assert dispatcher.waiting_tokens == 300
    with pytest.raises(NotReady):
        send()
    assert len(dispatcher.next_batch().rows) > 0
    assert dispatcher.waiting_tokens < 300
