"""Losses: a table of functions. A stage names those it wants and their weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from training.models.tagger import Tagger
from training.recipe import Loss


@dataclass(frozen=True)
class LossInputs:
    """What a network says of a batch, and what it should say.

    Attributes:
        logits: the network's for the labelled decisions, shape (labelled, tags).
        tags: the annotators' for these, shape (labelled,).
        student: the network's logits for the decisions that the teacher knows, shape (known, tags).
        teacher: the teacher's log-probabilities for these, shape (known, tags).
        hidden: mean squared distance of the hidden states, see `HiddenStateLoss`; None where no stage
            wants it.
        temperature, label_smoothing: the stage's.
    """

    logits: torch.Tensor
    tags: torch.Tensor
    student: torch.Tensor
    teacher: torch.Tensor
    hidden: torch.Tensor | None
    temperature: float
    label_smoothing: float


def cross_entropy(given: LossInputs) -> torch.Tensor:
    """Cross-entropy of the annotators' tags."""
    if not len(given.tags):
        return given.logits.sum()
    return F.cross_entropy(given.logits, given.tags, label_smoothing=given.label_smoothing)


def mse(given: LossInputs) -> torch.Tensor:
    """Squared distance of the logits, each side centred on its mean over the tags.

    A constant added to all logits changes no probability, so none is learned (Ba and Caruana 2014,
    "Do deep nets really need to be deep?"; the centring makes log-probabilities as good as logits).
    """
    if not len(given.teacher):
        return given.student.sum()
    student, teacher = (values - values.mean(-1, keepdim=True) for values in (given.student, given.teacher))
    return F.mse_loss(student, teacher)


def kl(given: LossInputs) -> torch.Tensor:
    """KL divergence from the teacher at a temperature T, times T² so that its gradient keeps its size.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network".
    """
    if not len(given.teacher):
        return given.student.sum()
    student, teacher = (
        F.log_softmax(values / given.temperature, -1) for values in (given.student, given.teacher)
    )
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * given.temperature**2


def hidden(given: LossInputs) -> torch.Tensor:
    """Distance of the hidden states (Jiao et al. 2020, "TinyBERT", without its attention maps)."""
    assert given.hidden is not None
    return given.hidden


LOSSES: Mapping[Loss, Callable[[LossInputs], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "kl": kl,
    "hidden": hidden,
}


def total(given: LossInputs, weights: Mapping[Loss, float]) -> torch.Tensor:
    """The weighted sum of a stage's losses, a scalar."""
    parts = [weight * LOSSES[name](given) for name, weight in weights.items() if weight]
    return torch.stack(parts).sum()


class HiddenStateLoss(nn.Module):
    """How far a student's hidden states are from those of a teacher with the same tokenizer.

    A projection takes student layer `i` of `n` to teacher layer `round(i * m / n)` of `m`, and the
    embeddings to the embeddings. The teacher runs beside the student, without gradients; the projections
    are trained with the student and dropped after it.
    """

    def __init__(self, teacher: Tagger, student: Tagger):
        super().__init__()
        self._teacher = (teacher.eval().requires_grad_(False),)  # a tuple: no part of this module's state
        probe = torch.ones((1, 1), dtype=torch.int64)
        with torch.no_grad():
            theirs, ours = (tagger.hidden_states(probe, probe, probe)[1] for tagger in (teacher, student))
        deep, shallow = len(theirs) - 1, len(ours) - 1
        self.layers = [round(layer * deep / shallow) for layer in range(shallow + 1)]
        self.projections = nn.ModuleList(
            nn.Linear(state.shape[-1], theirs[layer].shape[-1])
            for state, layer in zip(ours, self.layers, strict=True)
        )

    def forward(
        self,
        states: tuple[torch.Tensor, ...],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        word_shape: torch.Tensor,
    ) -> torch.Tensor:
        """Mean squared distance over real sub-tokens, averaged over the layers; a scalar."""
        teacher = self._teacher[0].to(input_ids.device)
        with torch.no_grad():
            _, wanted = teacher.hidden_states(input_ids, attention_mask, word_shape)
        real = attention_mask.bool()
        distances = [
            F.mse_loss(project(state[real]).float(), wanted[layer][real].float())
            for project, state, layer in zip(self.projections, states, self.layers, strict=True)
        ]
        return torch.stack(distances).mean()
