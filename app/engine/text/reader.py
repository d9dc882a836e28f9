"""The reader turns texts into sub-tokens and windows, and estimates how many sub-tokens there will be."""

from collections.abc import Sequence
from typing import NamedTuple

from app.engine.text.alignment import EncodedText
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import Window, cut_windows

_CHARACTERS_PER_TOKEN = 4.0
"""First guess of the characters of a sub-token, before any text was read."""

_SUB_TOKENS = 10_000
"""Sub-tokens over which the rate of characters to sub-tokens is averaged, roughly."""


class ReadText(NamedTuple):
    """Holds the sub-tokens and decisions of one text, and the windows that cover them.

    A text without decisions has no windows, because there is nothing to find in it.
    """

    encoded: EncodedText
    windows: Sequence[Window]


class Reader:
    """Tokenizes texts and cuts them into windows. Any thread may use it.

    Of a text, it only keeps pieces in the tokenizer's cache and the rate of characters to sub-tokens.

    Args:
        max_length: most sub-tokens of a window, special tokens included.
        stride: sub-tokens by which windows overlap.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, stride: int):
        self._tokenizer = tokenizer
        self.specials = tokenizer.frame.count
        """Number of special tokens around a window."""
        self._size = max_length - self.specials
        self._stride = stride
        self._characters_per_token = _CHARACTERS_PER_TOKEN

    def expected(self, texts: Sequence[str]) -> int:
        """Estimate the sub-tokens of texts, special tokens included, from the rate of recent texts."""
        return int(sum(map(len, texts)) / self._characters_per_token) + len(texts)

    def read(self, texts: Sequence[str]) -> list[ReadText]:
        """Encode texts and cut them into windows. Several texts together take less time than one by one."""
        read = [
            ReadText(
                encoded,
                cut_windows(len(encoded), self._size, self._stride) if len(encoded.firsts) else (),
            )
            for encoded in self._tokenizer.encode(texts)
        ]
        tokens = sum(window.end - window.start + self.specials for _, windows in read for window in windows)
        if tokens:
            share = min(1.0, tokens / _SUB_TOKENS)
            rate = max(sum(map(len, texts)), 1) / tokens
            self._characters_per_token += share * (rate - self._characters_per_token)
        return read
