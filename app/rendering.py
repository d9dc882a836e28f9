"""Rendering: turns entities into plain values, with offsets in the caller's unit."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from app.engine.decoding.entities import MANY, Entity

OffsetUnit = Literal["codepoint", "utf16", "byte"]
"""What offsets count: Unicode code points, UTF-16 code units, or bytes of UTF-8."""


def render(
    text: str, entities: Sequence[Entity], unit: OffsetUnit = "codepoint", agreement: bool = False
) -> list[dict[str, Any]]:
    """Return the entities of one text, each with `text`, `label`, `start`, `end` and `score`.

    Args:
        agreement: add `agreement`, the share of an ensemble's members that found exactly this entity.
    """
    if len(entities) <= MANY:
        return _rendered(text, entities, positions(text, unit) if entities else int, agreement)
    return [one for some in render_gradually(text, entities, unit, agreement) for one in some]


def render_gradually(
    text: str, entities: Sequence[Entity], unit: OffsetUnit = "codepoint", agreement: bool = False
) -> Iterator[list[dict[str, Any]]]:
    """Yield what `render` returns, some entities at a time."""
    position = positions(text, unit)
    for first in range(0, len(entities), MANY):
        yield _rendered(text, entities[first : first + MANY], position, agreement)


def _rendered(
    text: str, entities: Sequence[Entity], position: Callable[[int], int], agreement: bool
) -> list[dict[str, Any]]:
    rendered = []
    for entity in entities:
        start, end = entity.start, entity.end
        values = {
            "text": text[start:end],
            "label": entity.label,
            "start": position(start),
            "end": position(end),
            "score": round(entity.score, 4),
        }
        if agreement:
            values["agreement"] = None if entity.agreement is None else round(entity.agreement, 4)
        rendered.append(values)
    return rendered


def positions(text: str, unit: OffsetUnit) -> Callable[[int], int]:
    """Return a function that maps an offset in code points to one in `unit`."""
    if unit == "codepoint" or text.isascii():
        return int
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = np.ones(len(codes), np.uint8)
    for wider in (0xFFFF,) if unit == "utf16" else (0x7F, 0x7FF, 0xFFFF):
        widths += codes > wider
    ends = np.zeros(len(codes) + 1, np.int64)
    widths.cumsum(dtype=np.int64, out=ends[1:])
    return lambda at: int(ends[at])
