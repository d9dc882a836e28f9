"""Documents: text plus spans in code points. Every reader makes them, everything else takes them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """`text[start:end]` is a `label`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Document:
    """A text with its entities.

    Attributes:
        id: where it stands, `file:number`, for messages.
        text: the text itself.
        spans: its entities, ascending and without overlap.
        group: sentences of one article share it; empty where a text stands alone.
    """

    id: str
    text: str
    spans: tuple[Span, ...] = ()
    group: str = ""

    @property
    def key(self) -> str:
        """What two documents share when they are the same text but for spacing, case and marks."""
        return re.sub(r"[\W_]+", "", self.text.lower()) or self.text.strip()


def without_overlap(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans in order; of two that overlap the longer stays, of equals the first."""
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (s.start - s.end, s)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return tuple(sorted(kept))
