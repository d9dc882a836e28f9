from typing import Any

import numpy as np
import pytest

from app.engine.batching.requests import Request, Row, Text, answer
from app.engine.batching.size_classes import Flow
from app.engine.text.alignment import EncodedText
from app.engine.text.reader import ReadText
from app.engine.text.windows import cut_windows
from app.errors import InferenceFailed


def request_of(texts: int, decode: Any = lambda texts: [text.number for text in texts]) -> "Request[Any]":
    return Request(decode, None, texts, 9, forgotten.append)


forgotten: list[Flow] = []
"""The flows of requests that ended without answers."""


def text_of(request: "Request[Any]", number: int, length: int = 4, size: int = 4) -> Text:
    places = np.arange(length)
    encoded = EncodedText(places, places, places, places, places + 1)
    return Text(request, number, ReadText(encoded, cut_windows(length, size, size // 2)))


def test_a_request_is_answered_with_its_last_text_in_order() -> None:
    request = request_of(3)
    answer([text_of(request, 2), text_of(request, 0)])
    assert not request.result.done()
    answer([text_of(request, 1)])
    assert request.result.result(0) == [0, 1, 2]
    assert request.flow not in forgotten


def test_texts_that_are_read_alike_are_decoded_together() -> None:
    calls: list[int] = []

    def decode(texts: Any) -> list[int]:
        calls.append(len(texts))
        return [0] * len(texts)

    requests = [request_of(1, decode), request_of(1, decode), request_of(1)]
    answer([text_of(request, 0) for request in requests])
    assert calls == [2]
    assert all(request.result.done() for request in requests)


def test_a_decoder_that_fails_fails_the_requests_of_its_texts() -> None:
    def decode(texts: Any) -> list[int]:
        raise ZeroDivisionError

    broken, whole = request_of(1, decode), request_of(1)
    answer([text_of(broken, 0), text_of(whole, 0)])
    with pytest.raises(ZeroDivisionError):
        broken.result.result(0)
    assert whole.result.result(0) == [0]


@pytest.mark.parametrize("end", [lambda r: r.result.cancel(), lambda r: r.fail(InferenceFailed("no"))])
def test_a_request_that_ends_otherwise_is_forgotten_and_not_decoded(end: Any) -> None:
    request = request_of(1)
    end(request)
    assert forgotten[-1] is request.flow
    request.flow.cancelled = True  # as whoever forgets it does
    assert request.abandoned
    request.fail(InferenceFailed("again"))
    answer([text_of(request, 0)])


def test_a_text_of_many_windows_is_whole_when_the_last_has_run() -> None:
    text = text_of(request_of(1), 0, length=8)
    rows = [Row(text, window, 1, 0.0) for window in cut_windows(8, 4, 2)]
    for row in reversed(rows):
        places = np.array([-1, *row.ids], np.float32)[:, None]
        text.take(row.window, places, 1)
        assert text.ran() is (row is rows[0])
    assert text.logits is not None
    assert text.logits[:, 0].tolist() == list(range(8))
