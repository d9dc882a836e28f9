"""Stretches are parts of a long text that a tokenizer encodes independently of each other.

To encode a text of a million characters at once takes seconds and hundreds of megabytes. In stretches it
takes little memory, and other texts have their turn in between. The sub-tokens and decisions are the same.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer as RustTokenizer

from app.engine.text.alignment import EncodedText, EncodedTexts
from app.engine.text.words import ALONE, BETWEEN, kind_of, split_words
from app.labels import WordRule

STRETCH = 8_192
"""Characters of a stretch, if the text can be cut there."""

_REACH = 1_024
"""Characters before the end of a stretch among which a place to cut is preferred."""

_BLANK, _ALONE, _STARTS, _INSIDE = range(4)
"""What a character is to the tokenizer and to the word rule: a blank, a word by itself, the start of a word
if it stands after a blank, or none of these for sure."""


class Stretches:
    """Cuts texts for one tokenizer and word rule. Any thread may use it.

    Args:
        rust: a tokenizer that encodes the parts before and after a blank independently, see `end_marks`.
        marks: characters that it encodes in another way before a blank; a text is not cut before them.
    """

    def __init__(self, rust: RustTokenizer, marks: Sequence[str], rule: WordRule):
        self._rust = rust
        self._rule = rule
        self._kinds = dict.fromkeys(marks, _INSIDE)

    def cut(self, text: str, size: int = STRETCH) -> Iterator[str]:
        """Yield the stretches of a text. All but the first start with a word that has a sub-token, so no
        decision belongs to two of them."""
        start = 0
        while len(text) - start > size:
            end = self._place(text, start, start + size)
            yield text[start:end]
            start = end
        yield text[start:]

    def _place(self, text: str, start: int, end: int) -> int:
        """Return the place to cut: the last of the `_REACH` places up to `end`, or the first after it."""
        for place in range(end, max(start, end - _REACH), -1):
            if self._is_border(text, place):
                return place
        for place in range(end + 1, len(text)):
            if self._is_border(text, place):
                return place
        return len(text)

    def _is_border(self, text: str, place: int) -> bool:
        kind = self._kind(text[place])
        return kind == _ALONE or (kind == _STARTS and self._kind(text[place - 1]) == _BLANK)

    def _kind(self, character: str) -> int:
        kind = self._kinds.get(character)
        if kind is None:
            kind = self._kinds[character] = self._find_kind(character)
        return kind

    def _find_kind(self, character: str) -> int:
        """Ask the tokenizer itself what a character is, for versions of Unicode differ in that."""
        ours = kind_of(character, self._rule)
        pieces = self._pieces(f"a{character}a")
        if ours == BETWEEN:
            return _BLANK if pieces == ["a", "a"] else _INSIDE
        if ours == ALONE and pieces == ["a", character, "a"]:
            return _ALONE
        offsets = self._rust.encode(f"a {character}", add_special_tokens=False).offsets
        return _STARTS if (2, 3) in offsets else _INSIDE

    def _pieces(self, text: str) -> list[str]:
        if self._rust.normalizer:
            text = self._rust.normalizer.normalize_str(text)
        return [piece for piece, _ in self._rust.pre_tokenizer.pre_tokenize_str(text)]


def join_stretches(parts: Sequence[EncodedTexts], stretches: Sequence[str], rule: WordRule) -> EncodedText:
    """Join the encoded stretches of one text.

    Args:
        parts: the stretches in order; each part holds some of them.
        stretches: all stretches of the text.
    """
    tokens = np.concatenate([part.tokens for part in parts], axis=1)
    decisions = np.concatenate([part.decisions for part in parts], axis=1)
    counts = np.array(
        [
            [count for part in parts for count in part.token_counts],
            [len(stretch) for stretch in stretches],
        ],
        np.int64,
    )
    decision_counts = [count for part in parts for count in part.decision_counts]
    before = counts.cumsum(axis=1) - counts
    for row, base in zip(decisions, before[[0, 1, 1]], strict=True):
        row += base.repeat(decision_counts)
    if not decision_counts[0] and decisions.shape[1]:  # words without a sub-token join the word after them
        starts = split_words(stretches[0], rule).starts
        decisions[1, 0] = starts[0] if len(starts) else decisions[1, 0]
    return EncodedText(*tokens, *decisions)
