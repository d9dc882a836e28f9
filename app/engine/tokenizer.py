"""Tokenizer: from text to sub-tokens, and which sub-token speaks for which words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

from app.engine.words import Ints, WordRule, Words, split_words


@dataclass(frozen=True)
class EncodedText:
    """One text as a network and a decoder see it.

    A *decision* is a run of words that get one label together: nearly always a single word, more
    where words share a sub-token or have none.

    Attributes:
        ids: sub-token ids without special tokens, shape (sub-tokens,).
        shapes: the word shape of each sub-token, shape (sub-tokens,).
        heads: the sub-token each decision is read from, ascending, shape (decisions,).
        starts: code point at which each decision's words start, shape (decisions,).
        ends: code point at which they end, shape (decisions,).
    """

    ids: Ints
    shapes: Ints
    heads: Ints
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.ids)


_SHORT = 10_000
"""Below this many characters a single text is encoded while other Python threads wait: that saves
handing it over, and lasts a few milliseconds at most."""


class Tokenizer:
    """A `tokenizer.json` (Rust `tokenizers`) and a word rule. Nothing in it changes after creation."""

    def __init__(self, rust: RustTokenizer, rule: WordRule = "bert"):
        rust.no_truncation()
        rust.no_padding()
        rust.encode_special_tokens = True  # a literal "[SEP]" in a text is text
        self._rust = rust
        self.rule = rule
        probe = rust.encode("a").ids
        bare = rust.encode("a", add_special_tokens=False).ids
        at = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self.prefix: tuple[int, ...] = tuple(probe[:at])
        self.suffix: tuple[int, ...] = tuple(probe[at + len(bare) :])

    @classmethod
    def from_file(cls, path: Path, rule: WordRule = "bert") -> "Tokenizer":
        return cls(RustTokenizer.from_file(str(path)), rule)

    def save(self, path: Path) -> None:
        self._rust.save(str(path))

    def to_json(self) -> str:
        """What `save` writes: two tokenizers are the same where this is."""
        return str(self._rust.to_str())

    @property
    def specials(self) -> int:
        """Number of special tokens around a window."""
        return len(self.prefix) + len(self.suffix)

    @property
    def pad_id(self) -> int:
        """The padding id; where the vocabulary has no padding token, 0 (padding is masked anyway)."""
        for token in ("[PAD]", "<pad>", "<|pad|>"):
            found = self._rust.token_to_id(token)
            if found is not None:
                return int(found)
        return 0

    def token(self, number: int) -> str:
        """The sub-token with this id."""
        return str(self._rust.id_to_token(number))

    def samples(self, count: int = 64) -> list[str]:
        """Texts that this tokenizer should know: each is one of its own sub-tokens."""
        size = self._rust.get_vocab_size()
        numbers = range(0, size, max(1, size // count))
        return [self._rust.decode([number], skip_special_tokens=True).strip() for number in numbers]

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text's sub-tokens and decisions; texts do not affect each other."""
        if len(texts) == 1 and len(texts[0]) < _SHORT:
            encodings = [self._rust.encode(texts[0], add_special_tokens=False)]
        else:
            encodings = self._rust.encode_batch(list(texts), add_special_tokens=False)
        return [
            align(encoding, split_words(text, self.rule))
            for text, encoding in zip(texts, encodings, strict=True)
        ]


def align(encoding: Encoding, words: Words) -> EncodedText:
    """Join sub-tokens to words.

    A word is read from its first sub-token, the first whose first character that is not blank lies
    in the word. Words that share a sub-token are one decision; a word without a sub-token joins the
    word before it (at the start, the one after).
    """
    ids = np.array(encoding.ids, np.int64)
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    first = np.searchsorted(words.ends, offsets[:, 0], side="right")
    last = np.searchsorted(words.starts, offsets[:, 1], side="left") - 1
    real = np.flatnonzero(first <= last)  # the others hold no character, or blanks alone

    shapes = np.zeros(len(ids), np.int64)
    shapes[real] = words.shapes[first[real]]
    head = np.full(len(words), -1, np.int64)
    head[first[real][::-1]] = real[::-1]  # the last write wins: the first sub-token
    opens = head >= 0
    for token in real[first[real] < last[real]]:
        opens[first[token] + 1 : last[token] + 1] = False

    at = np.flatnonzero(opens)
    heads = head[at]
    starts = words.starts[at]
    ends = words.ends[np.append(at[1:], len(words)) - 1] if len(at) else at
    if len(at):
        starts[0] = words.starts[0]
    return EncodedText(ids, shapes, heads, starts, ends)
