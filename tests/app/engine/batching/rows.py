"""Requests whose rows need no network: each text is answered with its number."""

from collections.abc import Sequence

import numpy as np

from app.engine.batching.batches import Part
from app.engine.batching.dispatcher import Dispatcher
from app.engine.batching.requests import Request, Row, Text
from app.engine.text.alignment import EncodedText
from app.engine.text.reader import ReadText
from app.engine.text.windows import Window

SPECIALS = 2


def numbers(texts: Sequence[Text]) -> list[int]:
    """Decode texts as their numbers."""
    return [text.number for text in texts]


def request_of(
    dispatcher: Dispatcher, *lengths: int, seconds: float | None = None, now: float = 0.0
) -> Request[int]:
    """A request of a text for each row.

    Args:
        lengths: of its rows, special tokens included.
        seconds: after `now`, until its deadline.
    """
    deadline = None if seconds is None else now + seconds
    return Request(numbers, deadline, len(lengths), sum(lengths), dispatcher.cancel)


def rows_of(request: Request[int], *lengths: int) -> list[Row]:
    """A row for each of the request's texts."""
    rows = []
    for number, length in enumerate(lengths):
        places = np.arange(length - SPECIALS)
        encoded = EncodedText(places, places, places, places, places + 1)
        window = Window(0, len(places), 0, len(places))
        text = Text(request, number, ReadText(encoded, [window]))
        rows.append(Row(text, window, SPECIALS, 0.0))
    return rows


def send(
    dispatcher: Dispatcher, *lengths: int, seconds: float | None = None, now: float = 0.0
) -> Request[int]:
    """Admit a request and queue its rows."""
    request = request_of(dispatcher, *lengths, seconds=seconds, now=now)
    dispatcher.admit(request)
    dispatcher.add(Part(request, 0, (), request.unread), rows_of(request, *lengths))
    return request


def lengths_of(rows: Sequence[Row]) -> list[int]:
    return [row.length for row in rows]
