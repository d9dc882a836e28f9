"""Encoding: from documents to windows of sub-tokens with a tag on each decision's head."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from app.engine.decoding import Scheme, tags_of
from app.engine.tokenizer import EncodedText, Tokenizer
from app.engine.windows import cut_windows
from app.engine.words import Ints
from training.data.documents import Document

IGNORED = -100
"""The tag of sub-tokens that no decision is read from, as `torch.nn.CrossEntropyLoss` skips it."""

NO_TAGS = np.zeros(0, np.int64)
"""The tags of an example that is only run."""


@dataclass(frozen=True)
class Example:
    """Sub-tokens of one text without special tokens, all of shape (sub-tokens,)."""

    ids: Ints
    shapes: Ints
    tags: Ints
    group: str = ""

    def __len__(self) -> int:
        return len(self.ids)


def tag_ids(encoded: EncodedText, document: Document, scheme: Scheme, tags: Sequence[str]) -> Ints:
    """The tag of each decision of a text, shape (decisions,). An entity takes every decision it touches."""
    index = {tag: number for number, tag in enumerate(tags)}
    result = np.zeros(len(encoded.heads), np.int64)
    free = 0
    before = ""
    for start, end, label in document.spans:
        first = max(free, int(np.searchsorted(encoded.ends, start, side="right")))
        last = int(np.searchsorted(encoded.starts, end, side="left")) - 1
        if first > last:
            continue
        touching = first == free and before == label
        result[first : last + 1] = index[f"I-{label}"]
        if scheme == "BIOES":
            result[first], result[last] = index[f"B-{label}"], index[f"E-{label}"]
            if first == last:
                result[first] = index[f"S-{label}"]
        elif scheme == "IOB2" or (scheme == "IOB1" and touching):
            result[first] = index[f"B-{label}"]
        free, before = last + 1, label
    return result


def encode(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    scheme: Scheme,
    labels: Sequence[str],
) -> list[Example]:
    """Examples in the documents' order, each a whole text however long."""
    tags = tags_of(labels, scheme)
    examples = []
    for document, encoded in zip(documents, tokenizer.encode([d.text for d in documents]), strict=True):
        on_tokens = np.full(len(encoded), IGNORED, np.int64)
        on_tokens[encoded.heads] = tag_ids(encoded, document, scheme, tags)
        examples.append(Example(encoded.ids, encoded.shapes, on_tokens, document.group))
    return examples


def training_windows(
    examples: Iterable[Example], size: int, passages: float, rng: random.Random
) -> Iterator[Example]:
    """Windows of at most `size` sub-tokens for one epoch.

    With chance `passages` the next sentence of the same article joins the one before it, so that
    the network also meets texts of several sentences. Longer texts are cut.
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
    ids, shapes, tags = (
        np.concatenate([getattr(example, name) for example in joined]) for name in ("ids", "shapes", "tags")
    )
    for window in cut_windows(len(ids), size, size // 4):
        kept = np.full(window.end - window.start, IGNORED, np.int64)
        low, high = window.keep_from - window.start, window.keep_to - window.start
        kept[low:high] = tags[window.keep_from : window.keep_to]
        if (kept != IGNORED).any():
            inside = slice(window.start, window.end)
            yield Example(ids[inside], shapes[inside], kept)


@dataclass(frozen=True)
class Batch:
    """Tensors of shape (rows, sub-tokens), special tokens and padding included."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    word_shape: torch.Tensor
    tags: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.word_shape.to(device),
            self.tags.to(device),
        )


def collate(examples: Sequence[Example], tokenizer: Tokenizer) -> Batch:
    """Right-padded tensors with the tokenizer's special tokens around each row."""
    prefix, suffix = tokenizer.prefix, tokenizer.suffix
    width = max(map(len, examples)) + tokenizer.specials
    shape = (len(examples), width)
    ids = np.full(shape, tokenizer.pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    shapes = np.zeros(shape, np.int64)
    tags = np.full(shape, IGNORED, np.int64)
    for row, example in enumerate(examples):
        end = len(prefix) + len(example)
        ids[row, : end + len(suffix)] = [*prefix, *example.ids, *suffix]
        mask[row, : end + len(suffix)] = 1
        shapes[row, len(prefix) : end] = example.shapes
        tags[row, len(prefix) : len(prefix) + len(example.tags)] = example.tags
    return Batch(*(torch.from_numpy(array) for array in (ids, mask, shapes, tags)))


def batches(
    examples: Sequence[Example], tokens: int, extra: int, rng: random.Random
) -> list[list[Example]]:
    """Batches of similar length whose padded size is at most `tokens`, in random order.

    Args:
        extra: special tokens a row.
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
