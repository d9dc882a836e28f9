import torch

from tests.training.models.teachers import inputs, student
from training.models.cnn import DilatedLayer
from training.models.transformer import TransformerTagger


@torch.inference_mode()
def test_a_layer_is_a_dilated_convolution() -> None:
    """Against torch's own convolution with the same weights."""
    torch.manual_seed(0)
    layer = DilatedLayer(6, 2, 0.0).eval()
    layer.bias.normal_()
    states, mask = torch.randn(2, 9, 6), torch.ones(2, 9, 1)
    mask[1, 5:] = 0
    kernel = layer.linear.weight.view(3, 6, 6).permute(1, 2, 0)  # left, here, right
    normed = (layer.norm(states) * mask).transpose(1, 2)
    mixed = torch.nn.functional.conv1d(normed, kernel, layer.bias, padding=2, dilation=2)
    torch.testing.assert_close(layer(states, mask), states + mixed.relu().transpose(1, 2))


@torch.inference_mode()
def test_a_sub_token_sees_as_far_as_the_dilations_add_up_to(teacher: TransformerTagger) -> None:
    network = student("cnn", teacher, dilations=(1, 2, 4))
    ids, mask, shapes = inputs([30])
    before = network(ids, mask, shapes)[0]
    changed = ids.clone()
    changed[0, 15] = 5 + (ids[0, 15] - 4) % 80
    differs = (network(changed, mask, shapes)[0] != before).any(-1)
    reached = differs.nonzero().flatten()
    assert (reached.min(), reached.max()) == (15 - 7, 15 + 7)


@torch.inference_mode()
def test_rows_shorter_than_a_dilation_are_read(teacher: TransformerTagger) -> None:
    network = student("cnn", teacher, dilations=(8, 16))
    assert network(*inputs([1, 3])).isfinite().all()


@torch.inference_mode()
def test_word_shapes_are_seen(teacher: TransformerTagger) -> None:
    network = student("cnn", teacher)
    ids, mask, shapes = inputs([12])
    assert not torch.equal(network(ids, mask, shapes), network(ids, mask, (shapes + 1) % 6))
