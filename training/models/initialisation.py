"""A student's weights are initialised from its teacher's by the functions of this module."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from app.engine.text.words import SHAPES
from training.models.tagger import Allowed, ConfiguredTagger, Size, Tagger, read_size


class ShapedEmbedding(nn.Module):
    """Adds the embedding of a sub-token and the embedding of its word's shape.

    Args:
        vocabulary: number of sub-tokens.
        width: columns of both tables.
    """

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.shapes = nn.Embedding(SHAPES, width)

    def forward(self, input_ids: torch.Tensor, word_shape: torch.Tensor) -> torch.Tensor:
        """Return embeddings of shape (rows, sub-tokens, width)."""
        return self.words(input_ids) + self.shapes(word_shape)  # type: ignore[no-any-return]

    @torch.no_grad()
    def copy_from(self, teacher: Tagger, generator: torch.Generator) -> None:
        """Copy the teacher's tables, projected on the principal axes of its sub-tokens.

        One factor scales both tables, so that the columns of the sub-tokens have a root mean square of 1.
        Word shapes start as small noise where the teacher has no table for them.
        """
        words, shapes = teacher.tables()
        axes = principal_axes(words, self.words.embedding_dim)
        reduced = words @ axes
        scale = 1 / reduced.square().mean().sqrt().clamp(min=1e-8)
        self.words.weight.copy_(reduced * scale)
        if shapes is None:
            self.shapes.weight.copy_(torch.randn(self.shapes.weight.shape, generator=generator) * 0.1)
        else:
            self.shapes.weight.copy_(shapes @ axes * scale)


E = TypeVar("E", bound=ConfiguredTagger)


def embedded_student(
    kind: type[E],
    teacher: Tagger,
    tags: Sequence[str],
    size: Size,
    ranges: Mapping[str, Allowed],
    generator: torch.Generator,
) -> E:
    """Make a student whose `ShapedEmbedding` starts from the teacher's tables.

    Args:
        kind: a class with a `ShapedEmbedding` in `embeddings`, as wide as `embedding` of its config
            (128 columns by default).
        ranges: the allowed range of each other value of its config.

    Raises:
        ValueError: a value in `size` is unknown or out of range.
    """
    rows, columns = teacher.tables()[0].shape
    values = read_size(
        kind.architecture, size, {"embedding": Allowed(min(128, columns), 1, columns), **ranges}
    )
    with seeded(generator):
        student = kind(kind.config_type(vocabulary=rows, tags=tuple(tags), **values))
    embeddings = student.embeddings
    assert isinstance(embeddings, ShapedEmbedding)
    embeddings.copy_from(teacher, generator)
    return student


@torch.no_grad()
def principal_axes(table: torch.Tensor, width: int) -> torch.Tensor:
    """Return the first right singular vectors of a table, shape (columns, width).

    `table @ axes @ axes.T` is the best approximation of rank `width` (Eckart and Young, 1936). Signs
    are chosen so that the same table gives the same axes.
    """
    wide = table.double()
    _, vectors = torch.linalg.eigh(wide.T @ wide)  # this is far cheaper than the SVD of a tall table
    axes = vectors.flip(1)[:, :width]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    signed: torch.Tensor = axes * largest.sign()
    return signed.to(table.dtype)


@torch.no_grad()
def strongest_neurons(inward: torch.Tensor, outward: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices, ascending, of the `count` neurons with the largest product of weight norms.

    Args:
        inward: weights into the hidden neurons of a feed-forward layer, (neurons, width).
        outward: weights out of these neurons, (width, neurons).
    """
    strength: torch.Tensor = torch.linalg.vector_norm(inward, dim=1) * torch.linalg.vector_norm(
        outward, dim=0
    )
    return strength.topk(count).indices.sort().values


def evenly_spaced(count: int, total: int) -> tuple[int, ...]:
    """Return which of `total` layers a student of `count` copies: evenly spaced, the last included."""
    return tuple((number + 1) * total // count - 1 for number in range(count))


@torch.no_grad()
def inherited_weights(teacher: PreTrainedModel, student: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the state of a BERT-like student, filled from its teacher where shapes allow it.

    Layers come from evenly spaced ones. Tensors of equal shape are copied; feed-forward layers keep
    their strongest neurons; narrower embeddings are projected on the principal axes of the sub-tokens;
    the classifier gets the teacher's rows for shared tags. Other tensors keep the student's values.
    """
    old = teacher.state_dict()
    new = {name: value.clone() for name, value in student.state_dict().items()}
    layers = evenly_spaced(student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    kept = {
        f"{found[1]}.": strongest_neurons(
            inward, old[f"{found[1]}.output.dense.weight"], student.config.intermediate_size
        )
        for name, inward in old.items()
        if (found := re.fullmatch(r"(.*\.layer\.\d+)\.intermediate\.dense\.weight", name))
    }
    words = teacher.get_input_embeddings().weight
    axes = principal_axes(words, student.get_input_embeddings().weight.shape[1])
    for name, fresh in new.items():
        origin = re.sub(r"(?<=\.layer\.)\d+", lambda found: str(layers[int(found[0])]), name)
        if origin not in old or name.startswith("classifier."):
            continue
        value, part = old[origin], re.search(r"layer\.\d+\.(.*)", origin)
        if part and part[1].startswith("intermediate.dense"):
            value = value[kept[origin[: part.start(1)]]]
        elif part and part[1] == "output.dense.weight":
            value = value[:, kept[origin[: part.start(1)]]]
        elif ".embeddings." in name and value.shape != fresh.shape:
            value = _projected(name, value, axes)
        if value.shape == fresh.shape:
            new[name] = value
    for tag, row in student.config.label2id.items():
        known = teacher.config.label2id.get(tag)
        if known is not None and student.config.hidden_size == teacher.config.hidden_size:
            new["classifier.weight"][row] = old["classifier.weight"][known]
            new["classifier.bias"][row] = old["classifier.bias"][known]
    return new


def _projected(name: str, value: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """Project a table or a LayerNorm of the embeddings on `axes`.

    The gains of a LayerNorm are scales and cannot be projected: each new gain is a mean of the old
    ones, weighted by the squared share of each old column in the new one.
    """
    return value @ axes.square() if name.endswith("LayerNorm.weight") else value @ axes


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed the global generator, which `torch.nn` draws initial weights from, inside this block."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        yield
