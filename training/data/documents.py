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
        return text_key(self.text)

    @property
    def names(self) -> list[tuple[str, str]]:
        """The key and label of each entity: the same for two spellings of the same annotation."""
        return [(text_key(self.text[start:end]), label) for start, end, label in self.spans]


def text_key(text: str) -> str:
    """A text without its spacing, case and marks; one of marks alone is its own key."""
    return re.sub(r"[\W_]+", "", text.lower()) or text.strip()


def without_overlap(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans in order; of two that overlap the longer stays, of equals the first."""
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (s.start - s.end, s)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return tuple(sorted(kept))
