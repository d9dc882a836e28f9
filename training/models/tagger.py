"""A `Tagger` is the contract of all teachers and students, and of the folders that keep them.

The contract is `forward(input_ids, attention_mask, word_shape) -> logits`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn

CONFIG = "tagger.json"
"""The file that holds the architecture and its config, beside the weights."""

_WEIGHTS = "model.safetensors"

Size = Mapping[str, int | float | str | tuple[int, ...]]
"""The size of a student, as a recipe writes it."""


class Tagger(nn.Module, ABC):
    """Scores the tags of each sub-token.

    Input tensors are int64 of shape (rows, sub-tokens). Rows are padded on the right, with
    zeros in `attention_mask`.
    """

    architecture: ClassVar[str]
    """The name in `training.models.ARCHITECTURES`."""

    @abstractmethod
    def hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_shape: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return logits and the outputs of the embeddings and of each layer, bottom to top: `depth` + 1
        tensors of shape (rows, sub-tokens, width)."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_shape: torch.Tensor
    ) -> torch.Tensor:
        """Return logits of shape (rows, sub-tokens, tags)."""
        return self.hidden_states(input_ids, attention_mask, word_shape)[0]

    @property
    @abstractmethod
    def depth(self) -> int:
        """Return the number of layers."""

    @property
    @abstractmethod
    def tags(self) -> tuple[str, ...]:
        """Return the tag of each column of the logits."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter of `named_parameters()`: -1 for the embeddings, 0 to `depth` - 1
        for the layers, bottom to top, `depth` for the classification layer and its normalisation."""

    @abstractmethod
    def tables(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the embeddings of the vocabulary, (sub-tokens, columns), and of the word shapes,
        (shapes, columns), or None for a network that does not take word shapes."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and config into a folder that `load` and `load_tagger` read."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Load a saved tagger, in evaluation mode."""

    @classmethod
    @abstractmethod
    def student_of(
        cls, teacher: "Tagger", tags: Sequence[str], size: Size, generator: torch.Generator
    ) -> Self:
        """Make a smaller network for the same sub-tokens, with initial weights taken from the teacher.

        Raises:
            ValueError: a value in `size` is unknown or out of range, or the teacher's kind does not fit.
        """

    def parameter_groups(
        self, lr: float, head_lr: float, layer_decay: float, weight_decay: float
    ) -> list[dict[str, object]]:
        """Return parameters with peak learning rates: `head_lr` for the classification layer, `lr` for the
        topmost layer, and `layer_decay` times the rate above for each lower one (arXiv 1801.06146)."""
        groups: list[dict[str, object]] = []
        for name, parameter in self.named_parameters():
            layer = self.layer_of(name)
            rate = head_lr if layer == self.depth else lr * layer_decay ** (self.depth - 1 - layer)
            decay = 0.0 if parameter.ndim < 2 else weight_decay
            groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
        return groups


@dataclass(frozen=True)
class TaggerConfig:
    """Holds what a network needs besides its weights; each architecture adds more values."""

    vocabulary: int
    tags: tuple[str, ...]


class ConfiguredTagger(Tagger):
    """Builds, saves and loads a tagger from a config, without Hugging Face.

    A subclass sets `config_type` and is made from a value of that type.
    """

    config_type: ClassVar[Callable[..., TaggerConfig]]

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self.config.tags)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        described = {"architecture": self.architecture, **asdict(self.config)}
        (folder / CONFIG).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a saved tagger, in evaluation mode.

        Raises:
            ValueError: the folder holds another architecture, or weights that do not fit its config.
        """
        described = read_config(folder)
        if (found := described.pop("architecture")) != cls.architecture:
            raise ValueError(f"{folder / CONFIG}: is a {found}, not a {cls.architecture}")
        values = {
            key: tuple(value) if isinstance(value, list) else value for key, value in described.items()
        }
        try:
            tagger = cls(cls.config_type(**values))
            tagger.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{folder}: its weights or measures are not those of {cls.__name__}: {error}"
            ) from error
        return tagger.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's `tagger.json`.

    Raises:
        ValueError: the file is not what `save` writes.
    """
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        described["architecture"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: names no architecture; save the tagger again") from error
    return dict(described)


@dataclass(frozen=True)
class Allowed:
    """Holds the default of a value in `size`, and its least and greatest value.

    The value has the type of `default`: int, float, or a tuple whose items are in range.
    """

    default: Any
    least: float
    most: float


def read_size(architecture: str, size: Size, ranges: Mapping[str, Allowed]) -> dict[str, Any]:
    """Return every value that `ranges` names, from `size` or by default.

    Raises:
        ValueError: a value is unknown, of another type or out of range.
    """
    if unknown := sorted(set(size) - set(ranges)):
        raise ValueError(
            f"student size {', '.join(unknown)}: a {architecture} has no such measure; "
            f"it has {', '.join(ranges)}"
        )
    values: dict[str, Any] = {}
    for name, allowed in ranges.items():
        value: Any = size.get(name, allowed.default)
        if isinstance(allowed.default, tuple):
            items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
            values[name] = items
        else:
            items = (value,)
            values[name] = value
        kinds = (int, float) if isinstance(allowed.default, float) else (int,)
        fits = (
            isinstance(item, kinds) and not isinstance(item, bool) and allowed.least <= item <= allowed.most
            for item in items
        )
        if not items or not all(fits):
            kind = "numbers" if float in kinds else "whole numbers"
            raise ValueError(
                f"student size {name} = {value!r}: a {architecture} takes {kind} "
                f"from {allowed.least:g} to {allowed.most:g}"
            )
    return values
