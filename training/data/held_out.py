"""This module recognises held-out texts, because a transfer set must not hold the texts of dev and test.

Texts are compared without spacing, case and marks, because corpora spell one sentence in several ways.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from training.data.documents import text_key

_LONG = 6
"""A text of at least this many words is also searched inside other texts; shorter ones occur by chance."""
_LETTERS = 12
"""The least number of letters and digits of that text, so that "U-P-D-A-T-E-D" is not in "updated"."""
_WORD = re.compile(r"[^\W_\u3400-\u9fff]+|[\u3400-\u9fff]")  # each Han character is a word


@dataclass(frozen=True)
class _Letters:
    """Holds the key of a text, and where in the key each word starts."""

    key: str
    starts: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, text: str) -> "_Letters":
        starts, end = [], 0
        for word in _WORD.findall(text.lower()):
            starts.append(end)
            end += len(word)
        return cls(text_key(text), tuple(starts))

    @property
    def long(self) -> bool:
        return len(self.starts) >= _LONG and len(self.key) >= _LETTERS


class HeldOut:
    """Recognises the texts of dev and test files in other texts.

    It compares keys (see `text_key`), so tokenized and natural spellings of a sentence are equal. Two
    indexes lead from `_LETTERS` letters to the long texts that begin with them, and to the places in long
    texts where a word begins with them.
    """

    def __init__(self, texts: Iterable[str]):
        self._keys: set[str] = set()
        self._whole: dict[str, list[str]] = {}
        self._parts: dict[str, list[tuple[str, int]]] = {}
        for letters in map(_Letters.of, texts):
            if letters.key in self._keys:
                continue
            self._keys.add(letters.key)
            if letters.long:
                self._whole.setdefault(letters.key[:_LETTERS], []).append(letters.key)
                for start in letters.starts:
                    place = letters.key, start
                    self._parts.setdefault(letters.key[start : start + _LETTERS], []).append(place)

    def touches(self, text: str) -> bool:
        """Say whether a text equals a held-out text, contains a long one, or is long and part of one."""
        letters = _Letters.of(text)
        key = letters.key
        if key in self._keys:
            return True
        if not letters.long:
            return False
        if any(other.startswith(key, at) for other, at in self._parts.get(key[:_LETTERS], ())):
            return True
        whole = self._whole
        return any(
            key.startswith(other, start)
            for start in letters.starts
            for other in whole.get(key[start : start + _LETTERS], ())
        )
