import torch

from tests.training.models.teachers import inputs, student
from training.models.transformer import TransformerTagger


@torch.inference_mode()
def test_both_directions_reach_from_end_to_end(teacher: TransformerTagger) -> None:
    network = student("bilstm", teacher, layers=1)
    ids, mask, shapes = inputs([12])
    before = network(ids, mask, shapes)[0]
    for place, felt in ((0, 11), (11, 0)):
        changed = ids.clone()
        changed[0, place] = 5 + (ids[0, place] - 4) % 80
        assert not torch.equal(network(changed, mask, shapes)[0, felt], before[felt])


@torch.inference_mode()
def test_word_shapes_are_seen(teacher: TransformerTagger) -> None:
    network = student("bilstm", teacher)
    ids, mask, shapes = inputs([12])
    assert not torch.equal(network(ids, mask, shapes), network(ids, mask, (shapes + 1) % 6))
