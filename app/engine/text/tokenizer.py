"""A tokenizer turns a text into sub-tokens, and into the decisions that are read from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from app.engine.text.alignment import EncodedText, EncodedTexts, align
from app.engine.text.stretches import STRETCH, Stretches, join_stretches
from app.engine.text.token_cache import TokenCache, end_marks
from app.labels import WordRule

__all__ = ["EncodedText", "Specials", "Tokenizer"]

_SHORT = 10_000
"""Texts with fewer characters together are encoded one by one: other Python threads wait for a few
milliseconds at most, but nothing is handed over to the threads of the Rust code."""

_LONG = 2 * STRETCH
"""Texts with more characters are encoded in stretches, if the tokenizer allows it."""

_AT_ONCE = 4
"""Stretches that are encoded at once, so that the Rust code can use several threads: some 0.1 s of work."""


@dataclass(frozen=True)
class Specials:
    """Holds the special tokens that a network expects in a row.

    Attributes:
        prefix, suffix: ids before and behind a window's sub-tokens.
        pad_id: id that fills a row up to the batch's length. It is 0 if the vocabulary has no padding
            token, which does no harm because padding is masked.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int

    @property
    def count(self) -> int:
        """Return the number of special tokens around a window."""
        return len(self.prefix) + len(self.suffix)


class Tokenizer:
    """Encodes texts by a `tokenizer.json` (Rust `tokenizers`) and a word rule. Any thread may use it."""

    def __init__(self, rust: RustTokenizer, rule: WordRule = "bert"):
        rust.no_truncation()
        rust.no_padding()
        rust.encode_special_tokens = True  # a literal "[SEP]" in a text is text
        self._rust = rust
        self.rule = rule
        probe = rust.encode("a").ids
        bare = rust.encode("a", add_special_tokens=False).ids
        at = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self.frame = Specials(tuple(probe[:at]), tuple(probe[at + len(bare) :]), _pad_id(rust))
        """The special tokens around each window."""
        marks = end_marks(rust)
        self._cache = None if marks is None else TokenCache(rust, marks, rule)
        self._stretches = None if marks is None else Stretches(rust, marks, rule)

    @classmethod
    def from_file(cls, path: Path, rule: WordRule = "bert") -> "Tokenizer":
        return cls(RustTokenizer.from_file(str(path)), rule)

    @classmethod
    def from_bytes(cls, content: bytes, rule: WordRule = "bert") -> "Tokenizer":
        """Make a tokenizer of the content of a `tokenizer.json`."""
        return cls(RustTokenizer.from_buffer(content), rule)

    def save(self, path: Path) -> None:
        self._rust.save(str(path))

    def to_json(self) -> str:
        """Return the content of the file that `save` writes. Equal tokenizers have equal contents."""
        return str(self._rust.to_str())

    def token(self, number: int) -> str:
        """Return the sub-token with this id."""
        return str(self._rust.id_to_token(number))

    def samples(self, count: int = 64) -> list[str]:
        """Return texts that the tokenizer should know, because each is a sub-token of its vocabulary."""
        size = self._rust.get_vocab_size()
        numbers = range(0, size, max(1, size // count))
        return [self._rust.decode([number], skip_special_tokens=True).strip() for number in numbers]

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return the sub-tokens and decisions of each text, which do not depend on the other texts."""
        if self._cache is None:
            return self.encode_whole(texts)
        found = self._cache.encode(texts)
        rest = [text for text, encoded in zip(texts, found, strict=True) if encoded is None]
        whole = iter(self.encode_whole(rest) if rest else ())
        return [next(whole) if encoded is None else encoded for encoded in found]

    def encode_whole(self, texts: Sequence[str]) -> list[EncodedText]:
        """Encode texts as `encode` does, without the cache."""
        if not texts:
            return []
        if not any(map(self._is_long, texts)):
            return self._aligned(texts).cut()
        steps = (step for text in texts for step in self._gradually(text))
        return [encoded for encoded in steps if encoded is not None]

    def encode_gradually(self, text: str) -> Iterator[EncodedText | None]:
        """Yield a text as `encode` returns it. Before that, yield None after each part of a long text, so
        that the caller can do other work."""
        return self._gradually(text) if self._is_long(text) else iter(self.encode([text]))

    def _is_long(self, text: str) -> bool:
        return self._stretches is not None and len(text) > _LONG

    def _gradually(self, text: str) -> Iterator[EncodedText | None]:
        if not self._is_long(text):
            yield from self._aligned([text]).cut()
            return
        assert self._stretches
        stretches = list(self._stretches.cut(text))
        parts = []
        for first in range(0, len(stretches), _AT_ONCE):
            parts.append(self._aligned(stretches[first : first + _AT_ONCE]))
            yield None
        yield join_stretches(parts, stretches, self.rule)

    def _aligned(self, texts: Sequence[str]) -> EncodedTexts:
        if sum(map(len, texts)) < _SHORT:
            encodings = [self._rust.encode(text, add_special_tokens=False) for text in texts]
        else:
            encodings = self._rust.encode_batch(list(texts), add_special_tokens=False)
        return align(texts, encodings, self.rule)


def _pad_id(rust: RustTokenizer) -> int:
    for token in ("[PAD]", "<pad>", "<|pad|>"):
        found = rust.token_to_id(token)
        if found is not None:
            return int(found)
    return 0
