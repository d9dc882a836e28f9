"""Reader: from texts to what a network is fed of them, and how much that will be before it is known."""

from collections.abc import Sequence
from typing import NamedTuple

from app.engine.text.alignment import EncodedText
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import Window, cut_windows

_CHARACTERS_PER_TOKEN = 4.0
"""The expectation of a text's language before any text was read."""

_SUB_TOKENS = 10_000
"""The rate of characters to sub-tokens follows about so many of the latest sub-tokens."""


class ReadText(NamedTuple):
    """One text as it is run: its sub-tokens and decisions, and the windows that cover them.

    A text without decisions has no windows: there is nothing to find in it.
    """

    encoded: EncodedText
    windows: Sequence[Window]


class Reader:
    """Tokenizes texts and cuts them into windows. Any thread may use it.

    It keeps nothing of a text but what the tokenizer's cache does, and the rate of characters to
    sub-tokens.

    Args:
        max_length: sub-tokens of a window, special tokens included.
        stride: sub-tokens by which windows overlap.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, stride: int):
        self._tokenizer = tokenizer
        self.specials = tokenizer.frame.count
        """Special tokens around a window."""
        self._size = max_length - self.specials
        self._stride = stride
        self._characters_per_token = _CHARACTERS_PER_TOKEN

    def expected(self, texts: Sequence[str]) -> int:
        """Sub-tokens that texts will have, special tokens included, if they are as the latest were."""
        return int(sum(map(len, texts)) / self._characters_per_token) + len(texts)

    def read(self, texts: Sequence[str]) -> list[ReadText]:
        """Each text, encoded and cut. To read several together takes less than to read each alone."""
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
