"""What tests make of an answer: its spans, and slices of a text in the caller's unit."""

from typing import Any

from app.rendering import OffsetUnit
from tests.texts import AWKWARD

EVERYTHING = " ".join(AWKWARD)
"""A text of all that is awkward, with entities of the tiny model in it."""

UNITS: list[OffsetUnit] = ["codepoint", "utf16", "byte"]


def spans(result: Any) -> list[tuple[int, int, str]]:
    """Start, end and label of each entity of one text's result."""
    return [(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]]


def slice_in(unit: OffsetUnit, text: str, start: int, end: int) -> str:
    """What a program that counts in `unit` gets."""
    if unit == "codepoint":
        return text[start:end]
    if unit == "utf16":
        return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")
    return text.encode()[start:end].decode()
