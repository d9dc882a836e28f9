from collections.abc import Callable
from copy import deepcopy
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from tests.training.models.teachers import inputs, student, toy_teacher
from training.losses import LOSSES, HiddenStateLoss, LossInputs, cross_entropy, kl, mse, total
from training.models import Tagger
from training.recipe import Loss

TAGS = 5
logits = st.integers(1, 4).flatmap(
    lambda rows: arrays(np.float32, (rows, TAGS), elements=st.floats(-8, 8, width=32))
)


def inputs_of(
    student: torch.Tensor,
    teacher: torch.Tensor | None = None,
    tags: list[int] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    hidden: torch.Tensor | None = None,
) -> LossInputs:
    """What a network says of decisions that the annotators, the teacher or both know."""
    nothing = student[:0]
    return LossInputs(
        student if tags is not None else nothing,
        torch.tensor(tags or [], dtype=torch.int64),
        student if teacher is not None else nothing,
        nothing if teacher is None else teacher,
        hidden,
        temperature,
        smoothing,
    )


def test_the_table_and_recipes_know_the_same_losses() -> None:
    assert set(LOSSES) == set(get_args(Loss))


@given(logits, st.floats(-20, 20), st.floats(-20, 20))
def test_a_constant_of_a_decision_is_no_mse(values: np.ndarray, here: float, there: float) -> None:
    ours = torch.from_numpy(values)
    theirs = ours.flip(0) * 0.5
    plain = float(mse(inputs_of(ours, theirs)))
    shift = torch.arange(len(ours)).unsqueeze(1)
    moved = float(mse(inputs_of(ours + here * shift, theirs + there + shift)))
    assert moved == pytest.approx(plain, rel=1e-3, abs=1e-3)
    assert float(mse(inputs_of(ours, ours + here))) == pytest.approx(0, abs=1e-6)


def test_mse_takes_log_probabilities_for_logits() -> None:
    ours, theirs = torch.randn((2, 6, TAGS), generator=torch.Generator().manual_seed(1))
    expected = (ours - ours.mean(1, keepdim=True) - theirs + theirs.mean(1, keepdim=True)).square().mean()
    assert float(mse(inputs_of(ours, theirs.log_softmax(-1)))) == pytest.approx(float(expected), rel=1e-4)


@given(logits, st.floats(0.5, 8), st.floats(-20, 20))
def test_kl_of_one_distribution_is_zero(values: np.ndarray, temperature: float, shift: float) -> None:
    ours = torch.from_numpy(values)
    assert float(kl(inputs_of(ours, ours + shift, temperature=temperature))) == pytest.approx(0, abs=1e-4)


@given(logits, st.floats(0.5, 8))
def test_kl_is_what_torch_computes_at_a_temperature(values: np.ndarray, temperature: float) -> None:
    ours = torch.from_numpy(values).double()
    theirs = ours.flip(1)
    expected = nn.KLDivLoss(reduction="none")(
        F.log_softmax(ours / temperature, -1), F.softmax(theirs / temperature, -1)
    )
    found = float(kl(inputs_of(ours, theirs.log_softmax(-1), temperature=temperature)))
    assert found == pytest.approx(float(expected.sum(1).mean()) * temperature**2, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothing_gives_a_share_to_every_tag(smoothing: float) -> None:
    ours = torch.randn((4, TAGS), generator=torch.Generator().manual_seed(1))
    wanted = (1 - smoothing) * F.one_hot(torch.tensor([0, 1, 4, 1]), TAGS) + smoothing / TAGS
    expected = -(wanted * ours.log_softmax(-1)).sum(1).mean()
    found = cross_entropy(inputs_of(ours, tags=[0, 1, 4, 1], smoothing=smoothing))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, mse, kl])
def test_a_batch_that_says_nothing_moves_nothing(loss: Callable[[LossInputs], torch.Tensor]) -> None:
    layer = nn.Linear(3, TAGS)
    value = loss(inputs_of(layer(torch.ones((2, 3)))))
    value.backward()
    assert value.item() == 0
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


def test_weights_mix_losses() -> None:
    ours, theirs = torch.randn((2, 3, TAGS), generator=torch.Generator().manual_seed(1))
    given = inputs_of(ours, theirs, [1, 2, 3], 2.0, hidden=torch.tensor(7.0))
    weights: dict[Loss, float] = {"cross_entropy": 0.5, "mse": 2.0, "kl": 0.25, "hidden": 3.0}
    expected = sum(weight * float(LOSSES[name](given)) for name, weight in weights.items())
    assert float(total(given, weights)) == pytest.approx(expected)
    assert float(total(given, {"mse": 1.0, "kl": 0.0})) == pytest.approx(float(mse(given)))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Tagger:
    return toy_teacher(tmp_path_factory.mktemp("hidden"))


def test_a_students_layers_are_matched_with_evenly_spaced_ones(teacher: Tagger) -> None:
    assert HiddenStateLoss(teacher, student("transformer", teacher)).layers == [0, 2]
    assert HiddenStateLoss(teacher, deepcopy(teacher)).layers == [0, 1, 2]
    assert HiddenStateLoss(teacher, student("cnn", teacher)).layers == [0, 1, 1, 2]


def test_the_teachers_own_states_are_at_no_distance(teacher: Tagger) -> None:
    distance_of = HiddenStateLoss(teacher, teacher)
    with torch.no_grad():
        for projection in distance_of.projections:
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
    batch = inputs((5, 9))
    _, states = teacher.hidden_states(*batch)
    assert float(distance_of(states, *batch)) == pytest.approx(0, abs=1e-10)
    assert float(distance_of(tuple(state + 0.5 for state in states), *batch)) == pytest.approx(
        0.25, rel=1e-4
    )


def test_padding_is_at_no_distance(teacher: Tagger) -> None:
    small = student("cnn", teacher)
    distance_of = HiddenStateLoss(teacher, small)
    near, far = inputs((5,)), inputs((5,), padded=12)
    distances = [float(distance_of(small.hidden_states(*batch)[1], *batch)) for batch in (near, far)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-4)


def test_the_student_and_the_projections_come_nearer_and_the_teacher_stays(teacher: Tagger) -> None:
    small = student("transformer", teacher)
    distance_of = HiddenStateLoss(teacher, small)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert not set(distance_of.state_dict()) & set(before)
    batch = inputs((5, 9))
    optimizer = torch.optim.Adam([*small.parameters(), *distance_of.parameters()], 1e-2)
    distances = []
    for _ in range(20):
        optimizer.zero_grad()
        distance = distance_of(small.hidden_states(*batch)[1], *batch)
        distance.backward()
        optimizer.step()
        distances.append(float(distance))
    assert distances[-1] < 0.5 * distances[0]
    assert all(projection.weight.grad.any() for projection in distance_of.projections)
    assert all(bool((value == before[name]).all()) for name, value in teacher.state_dict().items())
