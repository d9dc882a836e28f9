"""The contract, by every architecture."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.models.teachers import SIZES, TAGS, inputs, student
from training.models import ARCHITECTURES, load_tagger, student_of
from training.models.transformer import TransformerTagger

NAMES = sorted(ARCHITECTURES)
Teacher = TransformerTagger


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_logits_are_one_row_of_tags_a_sub_token(name: str, teacher: Teacher) -> None:
    network = student(name, teacher)
    batch = inputs([7, 3])
    logits, states = network.hidden_states(*batch)
    assert logits.shape == (2, 7, len(TAGS))
    assert torch.equal(network(*batch), logits)
    assert len(states) == network.depth + 1
    assert all(state.shape[:2] == (2, 7) for state in states)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_parameters_and_every_parameter_a_layer(name: str, teacher: Teacher) -> None:
    network = student(name, teacher)
    layers = {parameter: network.layer_of(parameter) for parameter, _ in network.named_parameters()}
    assert set(layers.values()) == set(range(-1, network.depth + 1))
    top = [parameter for parameter, layer in layers.items() if layer == network.depth]
    assert all("layer." not in parameter and "embeddings" not in parameter for parameter in top)
    assert any("classifier" in parameter for parameter in top)


@pytest.mark.parametrize("name", NAMES)
def test_logits_depend_on_layers_from_bottom_to_top(name: str, teacher: Teacher) -> None:
    """Noise in the parameters of layer n leaves what lies below as it was, and nothing above."""
    batch = inputs([6])
    for layer in range(-1, student(name, teacher).depth + 1):
        network = student(name, teacher)
        with torch.no_grad():
            before = network.hidden_states(*batch)
            for parameter, value in network.named_parameters():
                if network.layer_of(parameter) == layer:
                    value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
            after = network.hidden_states(*batch)
        same = [torch.equal(*pair) for pair in zip(before[1], after[1], strict=True)]
        assert same == [number <= layer for number in range(network.depth + 1)]
        assert not torch.equal(before[0], after[0])


def test_lower_layers_learn_at_lower_rates(teacher: Teacher) -> None:
    network = student("cnn", teacher)
    groups = network.parameter_groups(lr=0.1, head_lr=0.7, layer_decay=0.5, weight_decay=0.01)
    rates = {}
    for (name, parameter), group in zip(network.named_parameters(), groups, strict=True):
        assert group["params"] == [parameter]
        assert group["weight_decay"] == (0.0 if parameter.ndim < 2 else 0.01)
        rates[network.layer_of(name)] = group["lr"]
    assert rates == {-1: 0.0125, 0: 0.025, 1: 0.05, 2: 0.1, 3: 0.7}


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_what_is_saved_is_what_is_loaded(name: str, teacher: Teacher, tmp_path: Path) -> None:
    network, batch = student(name, teacher), inputs([5, 2])
    network.save(tmp_path / "saved")
    loaded = load_tagger(tmp_path / "saved")
    assert type(loaded) is ARCHITECTURES[name]
    assert not loaded.training
    assert torch.equal(loaded(*batch), network(*batch))
    described = tmp_path / "saved/tagger.json"
    assert described.exists() == (name != "transformer")
    if described.exists():
        measures = json.loads(described.read_text())
        assert measures.pop("architecture") == name
        assert {**SIZES[name], "vocabulary": len(teacher.tables()[0]), "tags": TAGS} == {
            key: tuple(value) if isinstance(value, list) else value for key, value in measures.items()
        }


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides(name: str, teacher: Teacher) -> None:
    torch.manual_seed(1)
    first = student(name, teacher)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second, other = student(name, teacher), student(name, teacher, seed=1)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    padding=st.integers(0, 9),
)
def test_a_row_is_answered_as_it_would_be_alone(
    name: str, teacher: Teacher, lengths: list[int], padding: int
) -> None:
    network = student(name, teacher)
    with torch.inference_mode():
        together = network(*inputs(lengths, max(lengths) + padding))
        for row, length in enumerate(lengths):
            alone = network(*inputs([length]))[0]
            torch.testing.assert_close(together[row, :length], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_row_without_a_sub_token_harms_none(name: str, teacher: Teacher) -> None:
    ids, mask, shapes = inputs([4, 4])
    mask[0] = 0
    logits = student(name, teacher)(ids, mask, shapes)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[1], student(name, teacher)(*inputs([4]))[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_under_autocast(name: str, teacher: Teacher) -> None:
    network = student(name, teacher).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(*inputs([5, 3]))
    logits.float().square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_an_unknown_architecture_is_refused(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="'gru' is unknown; choose among transformer, bilstm, cnn"):
        student_of("gru", teacher, TAGS, {}, torch.Generator())


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "cnn",
            {"kernel": 5},
            "kernel: a cnn has no such measure; it has embedding, width, dilations, dropout",
        ),
        ("cnn", {"dilations": ()}, r"dilations = \(\): a cnn takes whole numbers from 1 to 256"),
        ("cnn", {"dilations": (1, 0)}, r"dilations = \(1, 0\)"),
        ("cnn", {"dilations": 2}, "dilations = 2"),
        ("bilstm", {"embedding": 33}, "embedding = 33: a bilstm takes whole numbers from 1 to 32"),
        ("bilstm", {"hidden": 2.5}, "hidden = 2.5"),
        ("bilstm", {"dropout": 1.0}, "dropout = 1.0: a bilstm takes numbers from 0 to 0.9"),
        ("transformer", {"layers": 3}, "layers = 3: a transformer takes whole numbers from 1 to 2"),
        ("transformer", {"layers": True}, "layers = True"),
        ("transformer", {"width": 64}, "width = 64"),
        ("transformer", {"width": 30, "heads": 4}, "width = 30: is not divisible by heads = 4"),
        ("transformer", {"hidden": 64}, "it has layers, width, heads, intermediate"),
    ],
)
def test_measures_that_cannot_be_are_refused(name: str, size: dict, message: str, teacher: Teacher) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        student_of(name, teacher, TAGS, size, torch.Generator())


def test_a_folder_of_another_architecture_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    student("cnn", teacher).save(tmp_path)
    with pytest.raises(ValueError, match="is a cnn, not a bilstm"):
        ARCHITECTURES["bilstm"].load(tmp_path)
    described = json.loads((tmp_path / "tagger.json").read_text())
    (tmp_path / "tagger.json").write_text(json.dumps({**described, "width": 8}))
    with pytest.raises(ValueError, match="weights or measures are not those of CNNTagger"):
        load_tagger(tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps({**described, "architecture": "gru"}))
    with pytest.raises(ValueError, match=r"tagger.json: architecture 'gru' is unknown"):
        load_tagger(tmp_path)
    (tmp_path / "tagger.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tagger.json: names no architecture"):
        load_tagger(tmp_path)
