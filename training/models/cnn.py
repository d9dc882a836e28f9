"""A CNN tagger stacks dilated convolutions of three taps, built from operators that are fast in int8."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from training.models.initialisation import ShapedEmbedding, embedded_student
from training.models.tagger import Allowed, ConfiguredTagger, Size, Tagger, TaggerConfig


@dataclass(frozen=True)
class CNNConfig(TaggerConfig):
    """Holds the size of a dilated CNN.

    Attributes:
        embedding: columns of the embeddings.
        width: channels of every layer.
        dilations: distance in sub-tokens to the two neighbours that a layer reads, bottom layer first.
        dropout: share of the embeddings and of each layer's output that training sets to zero.
    """

    embedding: int
    width: int
    dilations: tuple[int, ...]
    dropout: float


class DilatedLayer(nn.Module):
    """Computes one convolution of three taps, with a residual connection.

    One linear layer computes the three taps as a matrix product; their outputs are shifted and added.
    ONNX Runtime quantizes matrix products well and `Conv` badly.
    """

    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.width, self.dilation = width, dilation
        self.norm = nn.LayerNorm(width)
        # The layer has no bias, so that padding, which is all zeros, adds nothing to its neighbours.
        self.linear = nn.Linear(width, 3 * width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return new states from states of shape (rows, sub-tokens, width), mask (rows, sub-tokens, 1)."""
        said = self.linear(self.norm(states) * mask)
        left, here, right = said.split(self.width, dim=-1)
        far = self.dilation
        mixed = functional.pad(left, (0, 0, far, 0))[:, :-far] + here
        mixed = mixed + functional.pad(right, (0, 0, 0, far))[:, far:]
        return states + self.dropout(functional.relu(mixed + self.bias))  # type: ignore[no-any-return]


class CNNTagger(ConfiguredTagger):
    """Iterates dilated convolutions (Strubell et al. 2017, arXiv 1702.02098) without shared weights.

    A row's logits do not depend on the other rows of the batch; in int8 they are equal to the bit.
    """

    architecture = "cnn"
    config_type = CNNConfig

    def __init__(self, config: CNNConfig):
        super().__init__(config)
        self.embeddings = ShapedEmbedding(config.vocabulary, config.embedding)
        self.widening = nn.Linear(config.embedding, config.width)
        self.layers = nn.ModuleList(
            DilatedLayer(config.width, dilation, config.dropout) for dilation in config.dilations
        )
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width)
        self.classifier = nn.Linear(config.width, len(config.tags))

    @classmethod
    def student_of(
        cls, teacher: Tagger, tags: Sequence[str], size: Size, generator: torch.Generator
    ) -> Self:
        """Make a CNN with the teacher's embeddings; `size` has the values of `CNNConfig`.

        Raises:
            ValueError: a value in `size` is unknown or out of range.
        """
        ranges = {
            "width": Allowed(256, 1, 4096),
            "dilations": Allowed((1, 2, 4, 8, 1, 2), 1, 256),
            "dropout": Allowed(0.1, 0.0, 0.9),
        }
        return embedded_student(cls, teacher, tags, size, ranges, generator)

    def hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_shape: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        states = [self.widening(self.dropout(self.embeddings(input_ids, word_shape)))]
        mask = attention_mask.unsqueeze(-1).to(states[0].dtype)  # cast once for all layers
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return self.classifier(self.norm(states[-1])), tuple(states)

    @property
    def depth(self) -> int:
        return len(self.layers)

    def layer_of(self, name: str) -> int:
        part, number, *_ = name.split(".")
        if part == "layers":
            return int(number)
        return -1 if part in ("embeddings", "widening") else self.depth

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embeddings.words.weight, self.embeddings.shapes.weight
