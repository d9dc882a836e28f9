"""Teachers and batches for the tests of networks, and what the students of each architecture measure."""

from collections.abc import Sequence
from pathlib import Path

import torch

from app.labels import tags_of
from tests.training.toy import write_encoder
from training.models import Tagger, student_of
from training.models.tagger import Size
from training.models.transformer import TransformerTagger

TAGS = tuple(tags_of(("PER", "ORG", "LOC"), "IOB2"))

SIZES: dict[str, Size] = {
    "transformer": {"layers": 1, "width": 16, "heads": 2, "intermediate": 24},
    "bilstm": {"embedding": 12, "hidden": 10, "layers": 2, "dropout": 0.1},
    "cnn": {"embedding": 12, "width": 20, "dilations": (1, 2, 4), "dropout": 0.1},
}

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def toy_teacher(folder: Path) -> TransformerTagger:
    """The toy encoder with a fresh classification layer; weights of a size that makes logits differ."""
    encoder = str(write_encoder(folder / "encoder"))
    generator = torch.Generator().manual_seed(3)
    teacher = TransformerTagger.from_pretrained(encoder, TAGS, True, 0.1, generator)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return teacher.eval()


def student(architecture: str, teacher: Tagger, seed: int = 0, **changes: object) -> Tagger:
    """A student in evaluation mode, of its architecture's size in `SIZES`."""
    size: Size = {**SIZES[architecture], **changes}  # type: ignore[dict-item]
    return student_of(architecture, teacher, TAGS, size, torch.Generator().manual_seed(seed)).eval()


def inputs(lengths: Sequence[int], padded: int = 0, seed: int = 0) -> Inputs:
    """Make random sub-tokens, their mask and their shapes; a row depends on its length and `seed` alone.

    Args:
        padded: sub-tokens of every row; by default those of the longest.
    """
    padded = padded or max(lengths)
    ids, mask, shapes = (torch.zeros((len(lengths), padded), dtype=torch.int64) for _ in range(3))
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + length)
        ids[row, :length] = torch.randint(5, 90, (length,), generator=generator)
        shapes[row, :length] = torch.randint(0, 6, (length,), generator=generator)
        mask[row, :length] = 1
    return ids, mask, shapes
