"""Words: the units that carry labels, the same for every model.

A word is a maximal run of characters that are neither blank nor punctuation (as BERT defines it)
nor Han; each punctuation mark and each Han character is a word alone. Checkpoints that were
trained on blank-separated words use `words: space`: maximal runs of characters that are not blank.
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
WordRule = Literal["bert", "space"]

BLANK, PUNCTUATION, HAN, LOWER, UPPER, DIGIT, OTHER = range(7)
_UNSEEN = 255

SHAPES = 6
"""Number of word shapes: 0 other, 1 lower, 2 Capitalised, 3 UPPER, 4 mixed, 5 digits."""

_HAN_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# The class of each code point, filled in when a code point is first seen: the whole table would
# take 0.4 s of every start.
_classes = np.full(0x110000, _UNSEEN, np.uint8)


def _classify(code: int) -> int:
    char = chr(code)
    if char.isspace():
        return BLANK
    if any(low <= code <= high for low, high in _HAN_RANGES):
        return HAN
    category = unicodedata.category(char)
    if category[0] == "P" or (code < 128 and category[0] == "S"):  # BERT counts $+<=>^`|~ too
        return PUNCTUATION
    return {"Ll": LOWER, "Lu": UPPER, "Lt": UPPER, "Nd": DIGIT}.get(category, OTHER)


def character_classes(text: str) -> npt.NDArray[np.uint8]:
    """The class (`BLANK` … `OTHER`) of each code point of `text`, shape (len(text),)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    classes: npt.NDArray[np.uint8] = _classes[codes]
    unseen = classes == _UNSEEN
    if unseen.any():
        for code in np.unique(codes[unseen]):
            _classes[code] = _classify(int(code))
        classes = _classes[codes]
    return classes


@dataclass(frozen=True)
class Words:
    """The words of one text: code point offsets and shapes, each of shape (words,)."""

    starts: Ints
    ends: Ints
    shapes: Ints

    def __len__(self) -> int:
        return len(self.starts)


def split_words(text: str, rule: WordRule = "bert") -> Words:
    """The words of `text`, in order. They cover every character that is not blank."""
    classes = character_classes(text)
    if rule == "bert":
        alone = (classes == PUNCTUATION) | (classes == HAN)
        inside = classes > HAN
    else:
        alone = np.zeros(len(classes), bool)
        inside = classes != BLANK
    padded = np.concatenate(([False], inside, [False]))
    starts = np.flatnonzero(alone | (inside & ~padded[:-2]))
    ends = np.flatnonzero(alone | (inside & ~padded[2:])) + 1
    return Words(starts, ends, _shapes(classes, starts, ends))


def _shapes(classes: npt.NDArray[np.uint8], starts: Ints, ends: Ints) -> Ints:
    if not len(starts):
        return np.zeros(0, np.int64)

    def count(kind: int) -> Ints:
        # A slice reaches to the next word's start; the blanks between are of no kind that counts.
        return np.add.reduceat((classes == kind).astype(np.int64), starts)

    lower, upper, digits = count(LOWER), count(UPPER), count(DIGIT)
    capital = (classes[starts] == UPPER) & (upper == 1)
    return np.select(
        [
            digits == ends - starts,
            lower + upper == 0,
            upper == 0,
            capital,
            lower == 0,
        ],
        [5, 0, 1, 2, 3],
        default=4,
    ).astype(np.int64)
