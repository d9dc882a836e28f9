"""Running a network over texts in PyTorch: windows in, stitched logits out.

For dev scores while training and for a teacher's answers. What is reported of a version runs through
the serving engine.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.windows import cut_windows
from training.data.encode import NOTHING, Example, collate
from training.models.tagger import Tagger

_ROWS = 32


def logits_of(
    tagger: Tagger,
    tokenizer: Tokenizer,
    encoded: Sequence[EncodedText],
    tags: int,
    max_length: int,
    stride: int,
) -> list[npt.NDArray[np.float32]]:
    """Each text's logits, shape (decisions, tags), in bf16. Leaves the network in evaluation mode."""
    size = max_length - tokenizer.specials
    windows = [
        (number, window)
        for number, text in enumerate(encoded)
        for window in cut_windows(len(text), size, stride)
    ]
    windows.sort(key=lambda pair: pair[1].end - pair[1].start)
    logits = [np.zeros((len(text), tags), np.float32) for text in encoded]
    tagger.eval()
    device = next(tagger.parameters()).device
    for at in range(0, len(windows), _ROWS):
        rows = windows[at : at + _ROWS]
        batch = collate(
            [
                Example(
                    encoded[n].ids[w.start : w.end], encoded[n].shapes[w.start : w.end], NOTHING, NOTHING
                )
                for n, w in rows
            ],
            tokenizer,
        ).to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            output = tagger(batch.input_ids, batch.attention_mask, batch.word_shape)
        values = output.float().cpu().numpy()
        for row, (n, w) in enumerate(rows):
            shift = len(tokenizer.prefix) - w.start
            logits[n][w.keep_from : w.keep_to] = values[row, w.keep_from + shift : w.keep_to + shift]
    return [values[text.firsts] for text, values in zip(encoded, logits, strict=True)]
