"""This module runs a network over texts in PyTorch, window by window, and stitches the logits.

Training uses it for dev scores and for a teacher's answers. The scores of a version come from the
serving engine instead.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from app.engine.batching.collation import collate
from app.engine.decoding.spans import Decoder
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.windows import cut_windows, stitch
from app.labels import tags_of
from training.data.documents import Document, Span
from training.data.encode import INPUTS, Piece
from training.evaluation.spans import score
from training.models.tagger import Tagger
from training.recipe import Recipe

_ROWS = 32
"""Rows in a batch; the number bounds memory."""


def logits_of(
    tagger: Tagger,
    tokenizer: Tokenizer,
    encoded: Sequence[EncodedText],
    tags: int,
    max_length: int,
    stride: int,
) -> list[npt.NDArray[np.float32]]:
    """Return each text's logits, shape (decisions, tags), computed in bf16.

    The network is left in evaluation mode.
    """
    size = max_length - tokenizer.frame.count
    windows = [
        (number, window)
        for number, text in enumerate(encoded)
        for window in cut_windows(len(text), size, stride)
    ]
    windows.sort(key=lambda pair: pair[1].end - pair[1].start)
    logits: list[npt.NDArray[np.float32] | None] = [None] * len(encoded)
    tagger.eval()
    device = next(tagger.parameters()).device
    for at in range(0, len(windows), _ROWS):
        rows = windows[at : at + _ROWS]
        arrays = collate([Piece.of(encoded[n], w) for n, w in rows], INPUTS, tokenizer.frame)
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            output = tagger(**batch)
        for (n, w), row in zip(rows, output.float().cpu().numpy(), strict=True):
            logits[n] = stitch(logits[n], w, encoded[n].firsts, row, len(tokenizer.frame.prefix))
    return [
        np.zeros((len(text.firsts), tags), np.float32) if values is None else values
        for text, values in zip(encoded, logits, strict=True)
    ]


def f1_of(tagger: Tagger, tokenizer: Tokenizer, documents: Sequence[Document], recipe: Recipe) -> float:
    """Return the entity F1, from 0 to 1, of a network on documents."""
    decoder = Decoder(tags_of(recipe.labels, recipe.scheme), recipe.scheme)
    encoded = tokenizer.encode([document.text for document in documents])
    logits = logits_of(
        tagger, tokenizer, encoded, len(decoder.tags), recipe.export.max_length, recipe.export.stride
    )
    found = [
        [
            Span(int(text.starts[first]), int(text.ends[last]), label)
            for first, last, label, _ in decoder.decode(values)
        ]
        for text, values in zip(encoded, logits, strict=True)
    ]
    return score(found, [document.spans for document in documents], recipe.labels).overall.f1
