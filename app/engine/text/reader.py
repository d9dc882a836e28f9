"""The reader turns texts into sub-tokens and windows, and estimates how many sub-tokens there will be."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from app.engine.text.alignment import EncodedText
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import Window, cut_windows

_CHARACTERS_PER_TOKEN = 4.0
"""First guess of the characters of a sub-token, before any text was read."""

_SUB_TOKENS = 10_000
"""Sub-tokens over which the rate of characters to sub-tokens is averaged, roughly."""

_MOST_SHARE = 0.1
"""Texts that are read together count for at most this part of the rate, so that one strange text of a
million characters does not spoil what is expected of others."""

READ_TOGETHER = 32
"""At most this many texts are read at a time: more would delay the first of them and gain little."""

_CHARACTERS_TOGETHER = 32_768
"""At most this many characters are read at a time, if the tokenizer allows it: some 0.1 s of work."""


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

    def at_least(self, texts: Sequence[str]) -> int:
        """Return a number of sub-tokens that texts have at least: that of what stands between spaces. It
        takes a millisecond for a million characters."""
        # This counts a run of spaces at most once, and between two runs there is a sub-token.
        return sum(max(0, text.count(" ") - 2 * text.count("  ") - 1) for text in texts)

    def read(self, texts: Sequence[str]) -> list[ReadText]:
        """Encode texts and cut them into windows. Several texts together take less time than one by one."""
        return self._read(texts, self._tokenizer.encode(texts))

    def read_gradually(self, texts: Sequence[str]) -> Iterator[list[ReadText]]:
        """Read texts a step at a time, so that the caller can do other work in between.

        Yields:
            The next texts, read as by `read`; an empty list after a part of a long one.
        """
        first = 0
        while first < len(texts):
            end, characters = first + 1, len(texts[first])
            while end < min(len(texts), first + READ_TOGETHER):
                characters += len(texts[end])
                if characters > _CHARACTERS_TOGETHER:
                    break
                end += 1
            some = texts[first:end]
            if len(some) > 1:
                yield self.read(some)
            else:
                for encoded in self._tokenizer.encode_gradually(some[0]):
                    yield [] if encoded is None else self._read(some, [encoded])
            first = end

    def _read(self, texts: Sequence[str], encoded: Sequence[EncodedText]) -> list[ReadText]:
        read = [
            ReadText(one, cut_windows(len(one), self._size, self._stride) if len(one.firsts) else ())
            for one in encoded
        ]
        tokens = sum(window.end - window.start + self.specials for _, windows in read for window in windows)
        if tokens:
            share = min(_MOST_SHARE, tokens / _SUB_TOKENS)
            rate = max(sum(map(len, texts)), 1) / tokens
            self._characters_per_token += share * (rate - self._characters_per_token)
        return read
