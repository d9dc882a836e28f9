"""Words are the units that carry labels; they are the same for every model.

A word is a maximal run of characters that are neither blank nor punctuation (as BERT defines it)
nor Han; each punctuation mark and each Han character is a word by itself. Checkpoints that were trained
on blank-separated words use `words: space`, where a word is a maximal run of characters that are not blank.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.labels import WordRule

Ints = npt.NDArray[np.int64]

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

# To a word rule, a character lies between words, is part of one that may go on, or is a word by itself.
BETWEEN, INSIDE, ALONE = range(3)
_KINDS: dict[WordRule, npt.NDArray[np.uint8]] = {
    "bert": np.array([BETWEEN, ALONE, ALONE, INSIDE, INSIDE, INSIDE, INSIDE], np.uint8),
    "space": np.array([BETWEEN, INSIDE, INSIDE, INSIDE, INSIDE, INSIDE, INSIDE], np.uint8),
}

# Each character of a word sets one bit, a mark. The word's shape depends on which marks are set.
_HAS_LOWER, _HAS_INITIAL, _HAS_UPPER, _HAS_DIGIT, _HAS_OTHER = (1 << bit for bit in range(5))
_MARKS = np.array(
    [0, _HAS_OTHER, _HAS_OTHER, _HAS_LOWER, _HAS_UPPER, _HAS_DIGIT, _HAS_OTHER], np.uint8
)  # of each class
_FIRST_MARKS = np.where(_MARKS == _HAS_UPPER, np.uint8(_HAS_INITIAL), _MARKS)


def _shape(marks: int) -> int:
    upper = marks & (_HAS_INITIAL | _HAS_UPPER)
    if not marks & _HAS_LOWER and not upper:
        return 5 if marks == _HAS_DIGIT else 0
    if not upper:
        return 1
    if upper == _HAS_INITIAL:
        return 2
    return 4 if marks & _HAS_LOWER else 3


_SHAPE_OF = np.array([_shape(marks) for marks in range(1 << 5)], np.int64)

# The class of each code point, filled in when the code point is first seen: to fill the whole table would
# take a large part of a second at every start.
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


def kind_of(character: str, rule: WordRule) -> int:
    """Return what a character is to a word rule: `BETWEEN`, `INSIDE` or `ALONE`."""
    return int(_KINDS[rule][character_classes(character)[0]])


def character_classes(text: str) -> npt.NDArray[np.uint8]:
    """Return the class (`BLANK` … `OTHER`) of each code point of `text`, shape (len(text),)."""
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
    """Holds the starts and ends (code points) and the word shapes of a text's words, each (words,)."""

    starts: Ints
    ends: Ints
    shapes: Ints

    def __len__(self) -> int:
        return len(self.starts)


def split_words(text: str, rule: WordRule = "bert") -> Words:
    """Return the words of `text`, in order. They cover every character that is not blank."""
    classes = character_classes(text)
    kinds = _KINDS[rule][classes]
    starts = kinds != BETWEEN
    ends = starts.copy()
    apart = (kinds[1:] != INSIDE) | (kinds[:-1] != INSIDE)
    starts[1:] &= apart
    ends[:-1] &= apart
    begin = np.flatnonzero(starts)
    return Words(begin, np.flatnonzero(ends) + 1, _shapes(classes, begin))


def _shapes(classes: npt.NDArray[np.uint8], starts: Ints) -> Ints:
    if not len(starts):
        return np.zeros(0, np.int64)
    marks = _MARKS[classes]
    marks[starts] = _FIRST_MARKS[classes[starts]]
    # A slice reaches up to the next word's start; the blanks in it have no marks.
    return _SHAPE_OF[np.bitwise_or.reduceat(marks, starts)]
