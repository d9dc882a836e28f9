"""Encoding turns documents into sub-tokens, with a tag on the first sub-token of each decision."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch

from app.engine.batching.collation import collate
from app.engine.text.alignment import touched
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.windows import Window, cut_windows
from app.engine.text.words import Ints, split_words
from app.labels import Scheme, tags_of
from app.manifest import Feature
from training.data.documents import Document
from training.data.tags import spell_spans

IGNORED = -100
"""The tag of sub-tokens that do not start a decision; `torch.nn.CrossEntropyLoss` skips it by default."""

NO_TARGET = -1
"""The row of sub-tokens for which there is no teacher's answer."""


class Piece(NamedTuple):
    """Holds the network's inputs for one window of a text; `collate` takes it as a row.

    Attributes:
        ids, shapes: ids and word shapes of the window's sub-tokens, see `EncodedText`.
    """

    ids: Ints
    shapes: Ints

    @classmethod
    def of(cls, text: EncodedText, window: Window) -> "Piece":
        inside = slice(window.start, window.end)
        return cls(text.ids[inside], text.shapes[inside])


@dataclass(frozen=True)
class Example:
    """Holds the sub-tokens of one text without special tokens; arrays have the shape (sub-tokens,).

    Attributes:
        tags: the tag of each decision, on its first sub-token; `IGNORED` elsewhere.
        rows: on the first sub-token of each decision, the row of the teacher's answer for its first
            word; `NO_TARGET` elsewhere.
        group: see `Document`.
    """

    ids: Ints
    shapes: Ints
    tags: Ints
    rows: Ints
    group: str = ""

    def __len__(self) -> int:
        return len(self.ids)


def tag_ids(encoded: EncodedText, document: Document, scheme: Scheme, tags: Sequence[str]) -> Ints:
    """Return the number of each decision's tag, shape (decisions,).

    An entity takes every decision that it touches and that no earlier entity took.
    """
    index = {tag: number for number, tag in enumerate(tags)}
    taken: list[tuple[int, int, str]] = []
    free = 0
    for start, end, label in document.spans:
        first, last = map(int, touched(encoded.starts, encoded.ends, start, end))
        first = max(free, first)
        if first <= last:
            taken.append((first, last, label))
            free = last + 1
    spelled = spell_spans(taken, len(encoded.firsts), scheme)
    return np.array([index[tag] for tag in spelled], np.int64)


def encode(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    scheme: Scheme,
    labels: Sequence[str],
    rows: Sequence[Ints] | None = None,
) -> list[Example]:
    """Make labelled examples in the documents' order, one for each whole text of any length.

    Args:
        rows: see `encode_raw`.
    """
    tags = tags_of(labels, scheme)
    texts = [document.text for document in documents]
    return [
        replace(
            example,
            tags=_on_firsts(encoded, tag_ids(encoded, document, scheme, tags), IGNORED),
            group=document.group,
        )
        for document, (encoded, example) in zip(documents, _examples(texts, tokenizer, rows), strict=True)
    ]


def encode_raw(texts: Sequence[str], tokenizer: Tokenizer, rows: Sequence[Ints]) -> list[Example]:
    """Make examples without tags, for a student that learns from a teacher.

    Args:
        rows: for each text, the rows of its words in the teacher's answers, shape (words,);
            `NO_TARGET` for a word without an answer.
    """
    return [example for _, example in _examples(texts, tokenizer, rows)]


def _examples(
    texts: Sequence[str], tokenizer: Tokenizer, rows: Sequence[Ints] | None
) -> Iterator[tuple[EncodedText, Example]]:
    for number, (text, encoded) in enumerate(zip(texts, tokenizer.encode(texts), strict=True)):
        on_tokens = np.full(len(encoded), NO_TARGET, np.int64)
        if rows is not None:  # a decision learns the teacher's answer for its first word
            first = np.searchsorted(split_words(text, tokenizer.rule).starts, encoded.starts)
            on_tokens = _on_firsts(encoded, rows[number][first], NO_TARGET)
        yield encoded, Example(encoded.ids, encoded.shapes, np.full(len(encoded), IGNORED), on_tokens)


def _on_firsts(encoded: EncodedText, values: Ints, elsewhere: int) -> Ints:
    on_tokens = np.full(len(encoded), elsewhere, np.int64)
    on_tokens[encoded.firsts] = values
    return on_tokens


def training_windows(
    examples: Iterable[Example], size: int, passages: float, rng: random.Random
) -> Iterator[Example]:
    """Make the windows of at most `size` sub-tokens of one epoch, from examples in the corpus's order.

    A sentence joins the one before it in the same article with probability `passages`, so that the
    network also sees texts of several sentences. Longer texts are cut.
    """
    joined: list[Example] = []
    for example in examples:
        if (
            joined
            and example.group
            and example.group == joined[-1].group
            and sum(map(len, joined)) + len(example) <= size
            and rng.random() < passages
        ):
            joined.append(example)
            continue
        if joined:
            yield from _cut(joined, size)
        joined = [example]
    if joined:
        yield from _cut(joined, size)


def _cut(joined: Sequence[Example], size: int) -> Iterator[Example]:
    if len(joined) == 1 and len(joined[0]) <= size:
        if _teaches(joined[0]):
            yield joined[0]
        return
    ids, shapes, tags, rows = (
        np.concatenate([getattr(example, name) for example in joined])
        for name in ("ids", "shapes", "tags", "rows")
    )
    for window in cut_windows(len(ids), size, size // 4):
        inside = slice(window.start, window.end)
        away = np.ones(window.end - window.start, bool)
        away[window.keep_from - window.start : window.keep_to - window.start] = False
        part = Example(
            ids[inside],
            shapes[inside],
            np.where(away, IGNORED, tags[inside]),
            np.where(away, NO_TARGET, rows[inside]),
        )
        if _teaches(part):
            yield part


def _teaches(example: Example) -> bool:
    return bool((example.tags != IGNORED).any() or (example.rows != NO_TARGET).any())


INPUTS: dict[str, Feature] = {"input_ids": "ids", "attention_mask": "mask", "word_shape": "word_shape"}
"""The inputs of every tagger's `forward`, for `app.engine.batching.collation.collate`."""


@dataclass(frozen=True)
class Batch:
    """Holds tensors of shape (rows, sub-tokens), special tokens and padding included; see `Example`."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    word_shape: torch.Tensor
    tags: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], tokenizer: Tokenizer) -> "Batch":
        """Collate examples as the engine does, and pad their tags and rows to the same shape."""
        arrays = collate(examples, INPUTS, tokenizer.frame)
        before = len(tokenizer.frame.prefix)
        tags = np.full_like(arrays["input_ids"], IGNORED)
        rows = np.full_like(tags, NO_TARGET)
        for number, example in enumerate(examples):
            inside = slice(before, before + len(example))
            tags[number, inside], rows[number, inside] = example.tags, example.rows
        every = {**arrays, "tags": tags, "rows": rows}
        return cls(**{name: torch.from_numpy(array) for name, array in every.items()})

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def batches(
    examples: Sequence[Example], tokens: int, extra: int, rng: random.Random
) -> list[list[Example]]:
    """Group examples of similar length into batches of random order.

    Args:
        tokens: the largest padded size of a batch, in sub-tokens.
        extra: number of special tokens in each row.
    """
    order = sorted(examples, key=lambda e: (len(e) + rng.uniform(0, 6), rng.random()))
    result: list[list[Example]] = []
    widest = 0
    for example in order:
        widest = max(widest, len(example) + extra)
        if not result or widest * (len(result[-1]) + 1) > tokens:
            result.append([])
            widest = len(example) + extra
        result[-1].append(example)
    rng.shuffle(result)
    return result
