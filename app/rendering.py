"""Rendering: turns entities into plain values, with offsets in the caller's unit."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from app.engine.decoding.entities import Entity

OffsetUnit = Literal["codepoint", "utf16", "byte"]
"""What offsets count: Unicode code points, UTF-16 code units, or bytes of UTF-8."""


def render(
    text: str, entities: Sequence[Entity], unit: OffsetUnit = "codepoint", agreement: bool = False
) -> list[dict[str, Any]]:
    """Return the entities of one text, each with `text`, `label`, `start`, `end` and `score`.

    Args:
        agreement: add `agreement`, the share of an ensemble's members that found exactly this entity.
    """
    position = positions(text, unit) if entities else int
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
    if unit == "utf16":
        widths = 1 + (codes > 0xFFFF)
    else:
        widths = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF).astype(np.int64)
    ends = np.concatenate(([0], np.cumsum(widths)))
    return lambda at: int(ends[at])
