"""Every legal tag sequence of a few decisions, as the spellings of all sets of spans."""

import functools
import itertools
from collections.abc import Iterator

import pytest

from app.labels import Scheme

Span = tuple[int, int, str]
SCHEMES: list[Scheme] = ["IO", "IOB1", "IOB2", "BIOES"]
LABELS = ("PER", "LOC")
schemes = pytest.mark.parametrize("scheme", SCHEMES)


def span_sets(length: int, start: int = 0) -> Iterator[tuple[Span, ...]]:
    """Every set of spans that do not overlap (`last` inclusive)."""
    if start >= length:
        yield ()
        return
    yield from span_sets(length, start + 1)
    for last, label in itertools.product(range(start, length), LABELS):
        for rest in span_sets(length, last + 1):
            yield ((start, last, label), *rest)


def spelled(spans: tuple[Span, ...], length: int, scheme: Scheme) -> tuple[str, ...] | None:
    """The tags that spell the spans, or None where the scheme cannot."""
    tags = ["O"] * length
    ended: Span | None = None
    for first, last, label in spans:
        size = last - first + 1
        touches = ended is not None and ended[1] == first - 1 and ended[2] == label
        if scheme == "IO":
            if touches:
                return None
            prefixes = "I" * size
        elif scheme == "IOB1":
            prefixes = ("B" if touches else "I") + "I" * (size - 1)
        elif scheme == "IOB2":
            prefixes = "B" + "I" * (size - 1)
        else:
            prefixes = "S" if size == 1 else "B" + "I" * (size - 2) + "E"
        tags[first : last + 1] = [f"{prefix}-{label}" for prefix in prefixes]
        ended = (first, last, label)
    return tuple(tags)


@functools.cache
def legal_sequences(length: int, scheme: Scheme) -> dict[tuple[str, ...], tuple[Span, ...]]:
    """Every legal tag sequence and what it says."""
    pairs = ((spelled(spans, length, scheme), spans) for spans in span_sets(length))
    return {tags: spans for tags, spans in pairs if tags is not None}
