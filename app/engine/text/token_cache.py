"""The token cache keeps the sub-tokens of pieces of texts. A piece is what stands between two spaces.

A BERT tokenizer encodes a text's pieces independently, because it normalizes single characters and splits
words at blanks. Pieces recur, and joining known ones takes a fraction of the time of encoding.
"""

import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence, Set
from itertools import chain, pairwise
from typing import NamedTuple, cast

import numpy as np
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece

from app.engine.text.alignment import EncodedText, EncodedTexts
from app.engine.text.words import split_words
from app.labels import WordRule

LONGEST_TEXT = 10_000
"""Characters from which on a text is encoded as a whole: joining its pieces would block other threads."""

_LONGEST_PIECE = 64
"""Most characters of a piece that is kept: longer ones hardly recur."""

_INTS = np.dtype(np.intc)


class _Piece(NamedTuple):
    """Holds an encoded piece and the space after it.

    Attributes:
        tokens: id and shape of each sub-token, as the bytes of C ints.
        decisions: first sub-token, start and end of each decision, counted from the piece's start, as the
            bytes of C ints.
        token_count, decision_count, length: number of sub-tokens, of decisions and of characters.
    """

    tokens: bytes
    decisions: bytes
    token_count: int
    decision_count: int
    length: int


class TokenCache:
    """Encodes texts from pieces that were encoded before. Any thread may use it.

    Args:
        rust: a tokenizer that encodes pieces independently, see `end_marks`.
        marks: ends of texts that must be encoded as a whole, see `end_marks`.
        rule: rule that says what a word is.
        kept: most pieces in the cache, of some 400 bytes each. When full, the cache is emptied.
    """

    def __init__(self, rust: RustTokenizer, marks: tuple[str, ...], rule: WordRule, kept: int = 32_768):
        self._rust = rust
        self._marks = marks
        self._rule = rule
        self._kept = kept
        self._known: dict[str, _Piece] = {}

    def encode(self, texts: Sequence[str]) -> list[EncodedText | None]:
        """Return each text joined from its pieces, or None if it must be encoded as a whole."""
        names = [self._split(text) for text in texts]
        found = [list(map(self._known.get, pieces)) for pieces in names]
        if any(None in pieces for pieces in found):
            pairs = [list(zip(*pair, strict=True)) for pair in zip(names, found, strict=True)]
            learned = self._learn({name for name, piece in chain.from_iterable(pairs) if piece is None})
            found = [[piece or learned.get(name) for name, piece in pair] for pair in pairs]
        # A text that was not split has no pieces at all.
        complete = [cast(list[_Piece], pieces) for pieces in found if pieces and None not in pieces]
        joined = iter(_join(complete).cut() if complete else ())
        return [next(joined) if pieces and None not in pieces else None for pieces in found]

    def _split(self, text: str) -> list[str]:
        if len(text) >= LONGEST_TEXT or text.endswith(self._marks):
            return []
        return text.split(" ")

    def _learn(self, names: Set[str]) -> dict[str, _Piece]:
        """Encode new pieces. A piece whose first word has no sub-token is left out, because that word
        belongs to a decision of the piece before it."""
        ordered = list(names)
        text = " ".join([*ordered, ""])
        if len(text) < LONGEST_TEXT:
            encoding = self._rust.encode(text, add_special_tokens=False)
        else:
            encoding = self._rust.encode_batch([text], add_special_tokens=False)[0]
        split = split_words(text, self._rule)
        words = _Words(split.starts.tolist(), split.ends.tolist(), split.shapes.tolist())
        spans = list(zip(encoding.ids, encoding.offsets, strict=True))
        learned = {}
        base = token = 0
        for name in ordered:
            after, first = base + len(name) + 1, token
            while token < len(spans) and spans[token][1][0] < after:
                token += 1
            piece = _align(spans[first:token], words, base, after)
            if piece:
                learned[name] = piece
            base = after
        short = [(name, piece) for name, piece in learned.items() if len(name) <= _LONGEST_PIECE][
            : self._kept
        ]
        if len(self._known) + len(short) > self._kept:
            self._known.clear()
        self._known.update(short)
        return learned


class _Words(NamedTuple):
    """Holds the words of a text like `app.engine.text.words.Words`, in lists."""

    starts: list[int]
    ends: list[int]
    shapes: list[int]


def _align(
    tokens: Sequence[tuple[int, tuple[int, int]]], words: _Words, base: int, after: int
) -> _Piece | None:
    """Make the piece from `base` to `after`, or return None if its first word has no sub-token.

    A property test checks that this gives what `alignment.align` gives. That one uses numpy, which is fast
    for long texts, and this one uses lists, which are fast for a few words.

    Args:
        tokens: id and span of each sub-token of the piece.
        words: words of the whole text.
        base, after: code points at which the piece starts and the space after it ends.
    """
    shaped: list[int] = []
    firsts: dict[int, int] = {}
    shared: set[int] = set()
    for number, (token, (start, end)) in enumerate(tokens):
        first, last = bisect_right(words.ends, start), bisect_left(words.starts, end) - 1
        if first > last:  # an empty or blank sub-token
            shaped += token, 0
            continue
        shaped += token, words.shapes[first]
        firsts.setdefault(first, number)
        shared.update(range(first + 1, last + 1))

    low, high = bisect_left(words.starts, base), bisect_left(words.starts, after)
    opens = [word for word in range(low, high) if word in firsts and word not in shared]
    if low < high and low not in opens:
        return None
    decisions: list[int] = []
    for word, following in pairwise([*opens, high]):
        decisions += firsts[word], words.starts[word] - base, words.ends[following - 1] - base
    return _Piece(
        array("i", shaped).tobytes(),
        array("i", decisions).tobytes(),
        len(tokens),
        len(opens),
        after - base,
    )


def _join(texts: Sequence[Sequence[_Piece]]) -> EncodedTexts:
    """Join the pieces of each text."""
    tokens, decisions, token_counts, decision_counts, lengths = zip(
        *chain.from_iterable(texts), strict=True
    )
    sizes = np.array([token_counts, lengths, decision_counts], np.int64)
    before = sizes.cumsum(axis=1) - sizes  # sub-tokens, characters and decisions before each piece
    in_token_counts, in_decision_counts = [sum(token_counts)], [sum(decision_counts)]
    if len(texts) > 1:
        counts = np.array([len(pieces) for pieces in texts])
        firsts = counts.cumsum() - counts
        in_token_counts, _, in_decision_counts = np.add.reduceat(sizes, firsts, axis=1).tolist()
        before -= before[:, firsts].repeat(counts, axis=1)  # each text counts from its own start
    table = np.array(np.frombuffer(b"".join(decisions), _INTS).reshape(-1, 3).T, np.int64, order="C")
    table += before[[0, 1, 1]].repeat(sizes[2], axis=1)
    return EncodedTexts(
        np.array(np.frombuffer(b"".join(tokens), _INTS).reshape(-1, 2).T, np.int64, order="C"),
        table,
        in_token_counts,
        in_decision_counts,
    )


_BEFORE_BLANK = re.compile(r"\\?(.)\(\?=\\s\)")
"""Matches a regular expression that stands for one character before a blank."""


def end_marks(rust: RustTokenizer) -> tuple[str, ...] | None:
    """Return the ends of texts that must be encoded as a whole: characters that the tokenizer encodes in
    another way before a blank. Return None if the tokenizer may not encode pieces independently."""
    parts = [
        json.loads(part.__getstate__()) if part else {} for part in (rust.normalizer, rust.pre_tokenizer)
    ]
    *replacements, bert = parts[0].get("normalizers", parts[:1])
    marks = [_BEFORE_BLANK.fullmatch(step.get("pattern", {}).get("Regex", "")) for step in replacements]
    added = rust.get_added_tokens_decoder().values()
    if (
        bert.get("type") != "BertNormalizer"
        or parts[1].get("type") != "BertPreTokenizer"
        or not isinstance(rust.model, WordPiece)
        or not all(step.get("type") == "Replace" for step in replacements)
        or not all(marks)
        or not all(token.special for token in added)
    ):
        return None
    return tuple(mark[1] for mark in marks if mark)
