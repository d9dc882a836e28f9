"""This package holds the networks, which share the contract of `tagger.Tagger`.

Add a new student as one module and one line in `ARCHITECTURES`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from training.models.bilstm import BiLSTMTagger
from training.models.cnn import CNNTagger
from training.models.tagger import CONFIG, Size, Tagger, read_config
from training.models.transformer import TransformerTagger

ARCHITECTURES: dict[str, type[Tagger]] = {
    "transformer": TransformerTagger,
    "bilstm": BiLSTMTagger,
    "cnn": CNNTagger,
}


def load_tagger(folder: Path) -> Tagger:
    """Load a saved tagger of any architecture, in evaluation mode.

    A folder without `tagger.json` is a Hugging Face checkpoint.

    Raises:
        ValueError: `tagger.json` names an unknown architecture, or the weights do not fit.
    """
    if not (folder / CONFIG).exists():
        return TransformerTagger.load(folder)
    return _named(read_config(folder)["architecture"], f"{folder / CONFIG}: ").load(folder)


def student_of(
    architecture: str, teacher: Tagger, tags: Sequence[str], size: Size, generator: torch.Generator
) -> Tagger:
    """Make a smaller network of this architecture, with initial weights taken from the teacher.

    Raises:
        ValueError: the architecture or a value in `size` is unknown, or a value is out of range.
    """
    return _named(architecture).student_of(teacher, tags, size, generator)


def _named(architecture: str, where: str = "") -> type[Tagger]:
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{where}architecture {architecture!r} is unknown; choose among {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[architecture]
