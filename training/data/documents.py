"""A document is a text and its entities, with offsets in code points."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Says that `text[start:end]` (code points) is a `label`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Document:
    """Is a text with its entities.

    Attributes:
        id: `file:number`, for messages.
        spans: its entities, ascending and without overlap.
        group: the name that all sentences of one article share; empty for a text outside any article.
    """

    id: str
    text: str
    spans: tuple[Span, ...] = ()
    group: str = ""

    @property
    def key(self) -> str:
        """Return the same key for texts that differ only in spacing, case and marks."""
        return text_key(self.text)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Return the key and label of each entity, equal for two spellings of one annotation."""
        return [(text_key(self.text[start:end]), label) for start, end, label in self.spans]


def text_key(text: str) -> str:
    """Remove spacing, case and marks from a text; a text of marks alone only loses outer blanks."""
    return re.sub(r"[\W_]+", "", text.lower()) or text.strip()


def without_overlap(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Sort the spans and keep the longer of two that overlap, or the first of equally long ones."""
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (s.start - s.end, s)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return tuple(sorted(kept))
