"""Losses: a table of functions. A stage names those it wants and their weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from training.models.tagger import Tagger
from training.recipe import Loss


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch, and what it should say.

    Attributes:
        logits: of the labelled decisions, shape (labelled, tags).
        tags: of these, shape (labelled,).
        student: logits of the decisions that the teacher knows, shape (known, tags).
        teacher: the teacher's log-probabilities of these, shape (known, tags).
        hidden: mean squared distance of the hidden states, see `Guide`; None without one.
        temperature, label_smoothing: the stage's.
    """

    logits: torch.Tensor
    tags: torch.Tensor
    student: torch.Tensor
    teacher: torch.Tensor
    hidden: torch.Tensor | None
    temperature: float
    label_smoothing: float


def cross_entropy(answer: Answer) -> torch.Tensor:
    """Of the annotators' tags."""
    if not len(answer.tags):
        return answer.logits.sum()
    return F.cross_entropy(answer.logits, answer.tags, label_smoothing=answer.label_smoothing)


def mse(answer: Answer) -> torch.Tensor:
    """Squared distance of the logits, each side centred on its mean over the tags.

    A constant added to all logits changes no probability, so none is learned (Ba and Caruana 2014,
    "Do deep nets really need to be deep?"; the centring makes log-probabilities as good as logits).
    """
    if not len(answer.teacher):
        return answer.student.sum()
    student, teacher = (
        values - values.mean(-1, keepdim=True) for values in (answer.student, answer.teacher)
    )
    return F.mse_loss(student, teacher)


def kl(answer: Answer) -> torch.Tensor:
    """KL divergence from the teacher at a temperature T, times T² so that its gradient keeps its size.

    Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network".
    """
    if not len(answer.teacher):
        return answer.student.sum()
    student, teacher = (
        F.log_softmax(values / answer.temperature, -1) for values in (answer.student, answer.teacher)
    )
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * answer.temperature**2


def hidden(answer: Answer) -> torch.Tensor:
    """Distance of the hidden states (Jiao et al. 2020, "TinyBERT", without its attention maps)."""
    assert answer.hidden is not None
    return answer.hidden


LOSSES: Mapping[Loss, Callable[[Answer], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "kl": kl,
    "hidden": hidden,
}


def total(answer: Answer, weights: Mapping[Loss, float]) -> torch.Tensor:
    """The weighted sum of a stage's losses, a scalar."""
    parts = [weight * LOSSES[name](answer) for name, weight in weights.items() if weight]
    return torch.stack(parts).sum()


class Guide(nn.Module):
    """Projections from a student's layers to those of a teacher of the same tokenizer.

    Student layer `i` of `n` is matched with teacher layer `round(i * m / n)` of `m`, the embeddings
    with the embeddings. The teacher runs beside the student, without gradients; the projections are
    trained with the student and dropped after it.
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
