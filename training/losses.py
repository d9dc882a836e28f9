"""This module holds the table of losses. A stage names the losses that it uses, and their weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from training.models.tagger import Tagger
from training.recipe import Loss


@dataclass(frozen=True)
class LossInputs:
    """Holds a network's logits for a batch, and the targets of its losses.

    Attributes:
        logits: the network's logits for decisions with an annotated tag, shape (labelled, tags).
        tags: the annotated tags of these decisions, shape (labelled,).
        student: the network's logits for decisions with a teacher's answer, shape (known, tags).
        teacher: the teacher's log-probabilities for these decisions, shape (known, tags).
        hidden: mean squared distance of the hidden states, see `HiddenStateLoss`; None where the stage
            does not use it.
        temperature, label_smoothing: the fields of the stage.
    """

    logits: torch.Tensor
    tags: torch.Tensor
    student: torch.Tensor
    teacher: torch.Tensor
    hidden: torch.Tensor | None
    temperature: float
    label_smoothing: float


def cross_entropy(given: LossInputs) -> torch.Tensor:
    """Return the cross-entropy of the annotators' tags."""
    if not len(given.tags):
        return given.logits.sum()
    return F.cross_entropy(given.logits, given.tags, label_smoothing=given.label_smoothing)


def mse(given: LossInputs) -> torch.Tensor:
    """Return the mean squared distance of the logits, each side centred on its mean over the tags.

    The loss is that of Ba and Caruana 2014, "Do deep nets really need to be deep?". Centring removes the
    constant by which log-probabilities differ from logits.
    """
    if not len(given.teacher):
        return given.student.sum()
    student, teacher = (values - values.mean(-1, keepdim=True) for values in (given.student, given.teacher))
    return F.mse_loss(student, teacher)


def kl(given: LossInputs) -> torch.Tensor:
    """Return the KL divergence from the teacher at temperature T, times T² to keep the gradient's scale.

    The formula is that of Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network".
    """
    if not len(given.teacher):
        return given.student.sum()
    student, teacher = (
        F.log_softmax(values / given.temperature, -1) for values in (given.student, given.teacher)
    )
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * given.temperature**2


def hidden(given: LossInputs) -> torch.Tensor:
    """Return the distance of the hidden states (Jiao et al. 2020, "TinyBERT", without attention maps)."""
    assert given.hidden is not None
    return given.hidden


LOSSES: Mapping[Loss, Callable[[LossInputs], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "kl": kl,
    "hidden": hidden,
}


def total(given: LossInputs, weights: Mapping[Loss, float]) -> torch.Tensor:
    """Return the weighted sum of a stage's losses, a scalar."""
    parts = [weight * LOSSES[name](given) for name, weight in weights.items() if weight]
    return torch.stack(parts).sum()


class HiddenStateLoss(nn.Module):
    """Measures the distance of a student's hidden states from those of a teacher with the same tokenizer.

    A linear projection maps student layer `i` of `n` to teacher layer `round(i * m / n)` of `m`; layer 0
    is the embeddings. The teacher runs without gradients. The projections are trained with the student and
    discarded afterwards.
    """

    def __init__(self, teacher: Tagger, student: Tagger):
        super().__init__()
        self._teacher = (teacher.eval().requires_grad_(False),)  # the tuple keeps it out of the state dict
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
        """Return the mean squared distance over real sub-tokens, averaged over the layers; a scalar."""
        teacher = self._teacher[0].to(input_ids.device)
        with torch.no_grad():
            _, wanted = teacher.hidden_states(input_ids, attention_mask, word_shape)
        real = attention_mask.bool()
        distances = [
            F.mse_loss(project(state[real]).float(), wanted[layer][real].float())
            for project, state, layer in zip(self.projections, states, self.layers, strict=True)
        ]
        return torch.stack(distances).mean()
