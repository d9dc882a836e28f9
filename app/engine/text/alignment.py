"""Alignment finds the words of each decision, and the sub-token that the decision is read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding

from app.engine.text.words import Ints, split_words
from app.labels import WordRule


@dataclass(frozen=True)
class EncodedText:
    """Holds the sub-tokens of one text for a network, and its decisions for a decoder.

    A *decision* is a word, or several neighbouring words that share a label because they share a sub-token
    or some of them have none.

    Attributes:
        ids: sub-token ids without special tokens, shape (sub-tokens,).
        shapes: the word shape of each sub-token, shape (sub-tokens,).
        firsts: number of each decision's first sub-token, from which it is read; ascending, shape
            (decisions,).
        starts: code point at which each decision's words start, shape (decisions,).
        ends: code point at which each decision's words end, shape (decisions,).
    """

    ids: Ints
    shapes: Ints
    firsts: Ints
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.ids)


class EncodedTexts(NamedTuple):
    """Holds several texts, one after another in the same arrays, to save numpy calls.

    Attributes:
        tokens: ids and shapes, shape (2, sub-tokens).
        decisions: firsts, starts and ends, each counted from the start of the text, shape (3, decisions).
        token_counts: number of sub-tokens of each text.
        decision_counts: number of decisions of each text.
    """

    tokens: Ints
    decisions: Ints
    token_counts: Sequence[int]
    decision_counts: Sequence[int]

    def cut(self) -> list[EncodedText]:
        """Return each text as a value with slices of the arrays."""
        ids, shapes = self.tokens
        firsts, starts, ends = self.decisions
        if len(self.token_counts) == 1:
            return [EncodedText(ids, shapes, firsts, starts, ends)]
        return [
            EncodedText(
                ids[token:token_end],
                shapes[token:token_end],
                firsts[decision:decision_end],
                starts[decision:decision_end],
                ends[decision:decision_end],
            )
            for (token, token_end), (decision, decision_end) in zip(
                pairwise(accumulate(self.token_counts, initial=0)),
                pairwise(accumulate(self.decision_counts, initial=0)),
                strict=True,
            )
        ]


def touched(starts: Ints, ends: Ints, start: Ints | int, end: Ints | int) -> tuple[Ints, Ints]:
    """Return the numbers of the first and the last unit (word or decision) that `start:end` overlaps.

    Both are inclusive. The first is greater than the last if `start:end` overlaps no unit.

    Args:
        starts, ends: code points of each unit, ascending and without overlap, shape (units,).
        start, end: code points of one stretch of the text, or arrays of many.
    """
    return np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left") - 1


def align(texts: Sequence[str], encodings: Sequence[Encoding], rule: WordRule) -> EncodedTexts:
    """Join the sub-tokens of texts to their words.

    A sub-token belongs to the word of its first character that is not blank, and a word is read from the
    first sub-token that belongs to it. Words that share a sub-token are one decision. A word without
    a sub-token joins the word before it, or at the start of the text the word after it.
    """
    # All texts are joined into one, separated by blanks, so that numpy is called once for all.
    words = split_words("\n".join(texts), rule)
    bases = np.fromiter(accumulate((len(text) + 1 for text in texts), initial=0), np.int64)
    token_counts = np.array([len(encoding) for encoding in encodings], np.int64)
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
    spans = chain.from_iterable(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chain.from_iterable(spans), np.int64, 2 * len(ids)).reshape(-1, 2).T
    offsets = offsets + bases[:-1].repeat(token_counts)

    borders = np.searchsorted(words.starts, bases)  # number of each text's first word
    first, last = touched(words.starts, words.ends, *offsets)
    real = np.flatnonzero(first <= last)  # other sub-tokens are empty or blank

    tokens = np.zeros((2, len(ids)), np.int64)
    tokens[0] = ids
    tokens[1, real] = words.shapes[first[real]]
    first_of = np.full(len(words) + 1, -1, np.int64)
    first_of[first[real][::-1]] = real[::-1]  # the last write wins, which is a word's first sub-token
    opens = first_of >= 0
    for token in real[first[real] < last[real]]:
        opens[first[token] + 1 : last[token] + 1] = False

    at = np.flatnonzero(opens)
    text = np.searchsorted(borders, at, side="right") - 1
    counts = np.bincount(text, minlength=len(texts))
    begin, end = at.copy(), np.empty_like(at)  # the words of each decision
    some = counts > 0
    begin[(counts.cumsum() - counts)[some]] = borders[:-1][some]
    end[:-1], end[-1:] = at[1:], len(words)
    np.minimum(end, borders[text + 1], out=end)
    decisions = np.empty((3, len(at)), np.int64)
    decisions[0] = first_of[at] - (token_counts.cumsum() - token_counts)[text]
    decisions[1] = words.starts[begin] - bases[text]
    decisions[2] = words.ends[end - 1] - bases[text]
    return EncodedTexts(tokens, decisions, token_counts.tolist(), counts.tolist())
