import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.models.teachers import student
from training.models.bilstm import BiLSTMTagger
from training.models.initialisation import evenly_spaced, principal_axes, strongest_neurons
from training.models.transformer import TransformerTagger


def test_principal_axes_keep_as_much_as_any_can() -> None:
    table = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 10)
    axes = principal_axes(table, 4)
    torch.testing.assert_close(axes.T @ axes, torch.eye(4), atol=1e-5, rtol=0)
    lost = float((table - table @ axes @ axes.T).square().sum())
    values = np.linalg.svd(table.numpy(), compute_uv=False)
    np.testing.assert_allclose(lost, np.square(values[4:]).sum(), rtol=1e-4)


def test_neurons_that_say_nothing_go_first() -> None:
    inward, outward = torch.ones(5, 3), torch.ones(3, 5)
    inward[1] = 0  # hears nothing
    outward[:, 3] = 0.01  # is hardly heard
    assert strongest_neurons(inward, outward, 3).tolist() == [0, 2, 4]
    assert strongest_neurons(inward, outward, 5).tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 48).flatmap(lambda total: st.tuples(st.integers(1, total), st.just(total))))
def test_layers_are_spaced_evenly_and_end_with_the_last(case: tuple[int, int]) -> None:
    count, total = case
    chosen = evenly_spaced(count, total)
    assert len(set(chosen)) == count
    assert list(chosen) == sorted(chosen)
    assert chosen[-1] == total - 1
    gaps = np.diff([-1, *chosen])
    assert gaps.max() - gaps.min() <= 1


def test_half_of_six_layers() -> None:
    assert evenly_spaced(3, 6) == (1, 3, 5)


@torch.inference_mode()
def test_sub_tokens_stand_to_each_other_as_in_the_teacher(teacher: TransformerTagger) -> None:
    """With all columns kept, distances between embeddings are the teacher's but for one factor."""
    network = student("bilstm", teacher, embedding=32)
    assert isinstance(network, BiLSTMTagger)
    ids, shapes = torch.arange(5, 90)[None], (torch.arange(5, 90) % 6)[None]
    words, kinds = teacher.tables()
    assert kinds is not None
    want = torch.pdist((words[ids] + kinds[shapes])[0])
    got = torch.pdist(network.embeddings(ids, shapes)[0])
    torch.testing.assert_close(got / got.mean(), want / want.mean(), atol=1e-4, rtol=0)
    assert abs(float(network.embeddings.words.weight.square().mean()) - 1) < 1e-3


def test_a_teacher_that_sees_no_shapes_leaves_them_to_noise(teacher: TransformerTagger) -> None:
    blind = TransformerTagger(teacher.network)
    teacher.network.config.word_shapes = False
    try:
        network = student("bilstm", blind)
    finally:
        teacher.network.config.word_shapes = True
    assert isinstance(network, BiLSTMTagger)
    shapes = network.embeddings.shapes.weight.detach()
    assert 0.05 < float(shapes.std()) < 0.2


def test_a_student_can_teach(teacher: TransformerTagger) -> None:
    network = student("bilstm", student("cnn", teacher), embedding=6)
    assert isinstance(network, BiLSTMTagger)
    assert network.embeddings.words.weight.shape == (len(teacher.tables()[0]), 6)
