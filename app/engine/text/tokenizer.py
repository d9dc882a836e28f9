"""Tokenizer: from text to sub-tokens, and which sub-token speaks for which words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from app.engine.text.alignment import EncodedText, align
from app.engine.text.token_cache import TokenCache, end_marks
from app.labels import WordRule

__all__ = ["EncodedText", "Specials", "Tokenizer"]

_SHORT = 10_000
"""Below this many characters the Rust code runs while other Python threads wait: that saves handing
the texts over to threads of its own, and lasts a few milliseconds at most."""


@dataclass(frozen=True)
class Specials:
    """The special tokens that a network expects in a row.

    Attributes:
        prefix, suffix: ids before and behind a window's sub-tokens.
        pad_id: fills a row up to the batch's length; 0 where the vocabulary has no padding token, which
            does no harm because padding is masked.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int

    @property
    def count(self) -> int:
        """Special tokens around a window."""
        return len(self.prefix) + len(self.suffix)


class Tokenizer:
    """A `tokenizer.json` (Rust `tokenizers`) and a word rule. Any thread may use it."""

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
        # The same, each by itself, until every caller takes `frame`.
        self.prefix, self.suffix, self.pad_id = self.frame.prefix, self.frame.suffix, self.frame.pad_id
        self.specials = self.frame.count
        marks = end_marks(rust)
        self._chunks = None if marks is None else TokenCache(rust, marks, rule)

    @classmethod
    def from_file(cls, path: Path, rule: WordRule = "bert") -> "Tokenizer":
        return cls(RustTokenizer.from_file(str(path)), rule)

    def save(self, path: Path) -> None:
        self._rust.save(str(path))

    def to_json(self) -> str:
        """What `save` writes: two tokenizers are the same where this is."""
        return str(self._rust.to_str())

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
        if self._chunks is None:
            return self.encode_whole(texts)
        found = self._chunks.encode(texts)
        rest = [text for text, encoded in zip(texts, found, strict=True) if encoded is None]
        whole = iter(self.encode_whole(rest) if rest else ())
        return [next(whole) if encoded is None else encoded for encoded in found]

    def encode_whole(self, texts: Sequence[str]) -> list[EncodedText]:
        """As `encode`, without anything kept from earlier texts."""
        if not texts:
            return []
        if sum(map(len, texts)) < _SHORT:
            encodings = [self._rust.encode(text, add_special_tokens=False) for text in texts]
        else:
            encodings = self._rust.encode_batch(list(texts), add_special_tokens=False)
        return align(texts, encodings, self.rule).cut()


def _pad_id(rust: RustTokenizer) -> int:
    for token in ("[PAD]", "<pad>", "<|pad|>"):
        found = rust.token_to_id(token)
        if found is not None:
            return int(found)
    return 0
