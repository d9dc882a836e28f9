"""A BiLSTM tagger has embeddings, a few bidirectional LSTM layers and a classification layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.models.initialisation import ShapedEmbedding, embedded_student
from training.models.tagger import Allowed, ConfiguredTagger, Size, Tagger, TaggerConfig


@dataclass(frozen=True)
class BiLSTMConfig(TaggerConfig):
    """Holds the size of a BiLSTM.

    Attributes:
        embedding: columns of the embeddings.
        hidden: LSTM cells in each direction.
        layers: number of stacked LSTMs.
        dropout: share of the embeddings and of each layer's output that training sets to zero.
    """

    embedding: int
    hidden: int
    layers: int
    dropout: float


class BiLSTMTagger(ConfiguredTagger):
    """Runs a bidirectional LSTM over sub-tokens (Huang et al. 2015, arXiv 1508.01991, without the CRF).

    Each row ends at its last real sub-token, so padding never reaches the backward direction.
    """

    architecture = "bilstm"
    config_type = BiLSTMConfig

    def __init__(self, config: BiLSTMConfig):
        super().__init__(config)
        self.embeddings = ShapedEmbedding(config.vocabulary, config.embedding)
        widths = [config.embedding, *[2 * config.hidden] * config.layers]
        self.layers = nn.ModuleList(
            nn.LSTM(width, config.hidden, batch_first=True, bidirectional=True) for width in widths[:-1]
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(widths[-1], len(config.tags))

    @classmethod
    def student_of(
        cls, teacher: Tagger, tags: Sequence[str], size: Size, generator: torch.Generator
    ) -> Self:
        """Make a BiLSTM with the teacher's embeddings; `size` has the values of `BiLSTMConfig`.

        Raises:
            ValueError: a value in `size` is unknown or out of range.
        """
        ranges = {
            "hidden": Allowed(256, 1, 4096),
            "layers": Allowed(1, 1, 8),
            "dropout": Allowed(0.1, 0.0, 0.9),
        }
        return embedded_student(cls, teacher, tags, size, ranges, generator)

    def hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, word_shape: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        states = [self.dropout(self.embeddings(input_ids, word_shape))]
        lengths = attention_mask.sum(1).clamp(min=1).cpu()
        # An exported graph keeps the order of its rows, because ONNX's LSTM does not need them sorted.
        in_order = torch.onnx.is_in_onnx_export()
        for layer in self.layers:
            packed = pack_padded_sequence(states[-1], lengths, batch_first=True, enforce_sorted=in_order)
            if _lacks_bf16_lstm(packed.data.device):
                with torch.autocast("cpu", enabled=False):
                    output, _ = layer(packed.to(torch.float32))
            else:
                output, _ = layer(packed)
            padded, _ = pad_packed_sequence(output, batch_first=True, total_length=input_ids.shape[1])
            states.append(self.dropout(padded))
        return self.classifier(states[-1]), tuple(states)

    @property
    def depth(self) -> int:
        return len(self.layers)

    def layer_of(self, name: str) -> int:
        part, number, *_ = name.split(".")
        return {"embeddings": -1, "classifier": self.depth}[part] if part != "layers" else int(number)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embeddings.words.weight, self.embeddings.shapes.weight


def _lacks_bf16_lstm(device: torch.device) -> bool:
    """Say whether autocast asks for bf16 and this CPU has no bf16 LSTM, as without AVX-512."""
    autocast = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return autocast and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
