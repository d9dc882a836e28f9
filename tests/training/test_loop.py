"""The training loop on a toy: a few dozen steps each."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from app.engine.text.tokenizer import Tokenizer
from app.labels import tags_of
from tests.servers import until
from tests.training.toy import toy_corpus
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.data.encode import encode
from training.loop import TrainingData, moving_average, train
from training.models.transformer import TransformerTagger, load_tokenizer
from training.progress import Epoch, Watch
from training.recipe import Recipe, Stage, load_recipe

Weights = dict[str, torch.Tensor]

SHORT = Stage(
    epochs=2,
    lr=3e-3,
    head_lr=3e-3,
    batch_tokens=128,
    max_length=32,
    save_steps=5,
    precision="no",
    patience=9,
)


@dataclass(frozen=True)
class Setting:
    """The recipe, tokenizer and dev corpus of the tests."""

    recipe: Recipe
    tokenizer: Tokenizer
    dev: LoadedCorpus

    def network(self, dropout: float = 0.1) -> TransformerTagger:
        """The toy encoder with a classification layer, always the same."""
        generator = torch.Generator().manual_seed(1)
        tags = tags_of(self.recipe.labels, self.recipe.scheme)
        return TransformerTagger.from_pretrained(self.recipe.encoder.path, tags, True, dropout, generator)

    def data(self, documents: tuple[Document, ...]) -> TrainingData:
        labels, scheme = self.recipe.labels, self.recipe.scheme
        return TrainingData(encode(documents, self.tokenizer, scheme, labels), self.tokenizer, [self.dev])

    def learn(
        self,
        folder: Path,
        network: TransformerTagger | None = None,
        documents: tuple[Document, ...] = (),
        watch: Watch | None = None,
        **changes: Any,
    ) -> TransformerTagger:
        """Train a network in a folder, by `SHORT` with changes; the network as the last step left it."""
        network = network or self.network()
        stage = Stage(**(SHORT.model_dump() | changes))
        data = self.data(documents or toy_corpus(110, 1).documents)
        train(network, data, stage, 1, self.recipe, folder, watch)
        return network


@pytest.fixture(scope="module")
def setting(toy: Path) -> Setting:
    recipe = load_recipe(toy / "toy.toml")
    return Setting(recipe, load_tokenizer(recipe.encoder.path), toy_corpus(12, 2))


def weights_of(network: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def checkpoint_of(folder: Path) -> Weights:
    """The weights of the best epoch, by the names that the network has for them."""
    found = load_file(folder / "checkpoint/model.safetensors")
    return {f"network.{name}": value for name, value in found.items()}


def history_of(folder: Path) -> list[Epoch]:
    return [Epoch(**epoch) for epoch in json.loads((folder / "state/history.json").read_text())]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


class Stopped(Exception):
    """Stands for a kill of the training."""


def stop_before(network: TransformerTagger, calls: int) -> None:
    """Let a network fail after this many calls, including those on dev texts and of its average."""
    left = iter(range(calls))

    def count(*_: object) -> None:
        if next(left, None) is None:
            raise Stopped

    network.register_forward_pre_hook(count)


@pytest.fixture(scope="module")
def whole(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything that has a state: dropout, an average, two batches a step."""
    folder = tmp_path_factory.mktemp("whole")
    setting.learn(folder, average=0.8, accumulate=2, batch_tokens=64)
    return folder


@pytest.mark.parametrize("calls", [3, 13, 22, 23, 40])
def test_stopped_anywhere_and_resumed_it_ends_the_same(
    setting: Setting, whole: Path, tmp_path: Path, calls: int
) -> None:
    values = {"average": 0.8, "accumulate": 2, "batch_tokens": 64}
    network = setting.network()
    stop_before(network, calls)
    with pytest.raises(Stopped):
        setting.learn(tmp_path, network, **values)
    # TensorBoard orders the files of one second by name, and of one process the tenth before the ninth.
    stopped = int(time.time())
    until(lambda: int(time.time()) > stopped)
    setting.learn(tmp_path, **values)
    assert history_of(tmp_path) == history_of(whole)
    for file in ("checkpoint/model.safetensors", "state/model.safetensors"):
        resumed, expected = load_file(tmp_path / file), load_file(whole / file)
        assert not moved(expected, resumed), file
    assert scalars(tmp_path) == scalars(whole)


def test_a_finished_run_is_left_as_it_is(setting: Setting, tmp_path: Path) -> None:
    setting.learn(tmp_path, epochs=1)
    before = history_of(tmp_path), checkpoint_of(tmp_path)
    setting.learn(tmp_path, epochs=1)
    assert history_of(tmp_path) == before[0]
    assert not moved(before[1], checkpoint_of(tmp_path))


def test_a_run_is_not_gone_on_with_by_fewer_processes(setting: Setting, tmp_path: Path) -> None:
    setting.learn(tmp_path, epochs=1)
    file = tmp_path / "state/progress.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": 2}))
    with pytest.raises(ValueError, match=r"was begun by 2 processes, and 1 cannot go on .* launch 2"):
        setting.learn(tmp_path, epochs=1)


def test_loss_and_dev_f1_are_on_the_board(whole: Path) -> None:
    found, history = scalars(whole), history_of(whole)
    dev = [value for _, value in found["dev F1/toy"]]
    assert dev == pytest.approx([epoch.dev["toy"] for epoch in history])
    assert [value for _, value in found["dev F1/average"]] == pytest.approx(dev)
    steps = [step for step, _ in found["dev F1/toy"]]
    first, last = steps
    assert [step for step, _ in found["loss"]] == list(range(20, last + 1, 20))
    twenty = first * history[0].loss + (20 - first) * history[1].loss  # all but the last step or two
    assert found["loss"][0][1] == pytest.approx(twenty / 20, rel=0.2)


def twins() -> tuple[Document, ...]:
    """Four texts of as many words, one sub-token each, so that each has the same say in a batch's mean."""
    texts = [
        " ".join(["Anna Adler moved to Aachen ."] * 10),
        " ".join(["Bela Busch moved to Bremen ."] * 10),
        " ".join(["Anna works for Acme in Celle ."[:-2]] * 10),
        " ".join(["it rained and Ida met Fritz"] * 10),
    ]
    return tuple(Document(text, text, (Span(0, 4, "PER"),)) for text in texts)


def test_accumulated_batches_are_one_large_batch(setting: Setting, tmp_path: Path) -> None:
    def gradient(folder: str, **changes: Any) -> torch.Tensor:
        """The first gradient of all parameters."""
        network = setting.network(dropout=0.0)
        found: dict[str, torch.Tensor] = {}
        calls = iter(range(changes.get("accumulate", 1) * sum(1 for _ in network.parameters())))
        for name, parameter in network.named_parameters():

            def keep(parameter: torch.Tensor, name: str = name) -> None:
                if next(calls, None) is not None:
                    assert parameter.grad is not None
                    found[name] = parameter.grad.clone()

            parameter.register_post_accumulate_grad_hook(keep)
        setting.learn(tmp_path / folder, network, twins(), epochs=1, max_length=64, **changes)
        return torch.cat([found[name].flatten() for name, _ in network.named_parameters()])

    large = gradient("large", batch_tokens=256)
    accumulated = gradient("accumulated", batch_tokens=64, accumulate=4)
    half = gradient("half", batch_tokens=64, accumulate=2)
    assert (accumulated - large).norm() < 1e-4 * large.norm()
    assert (half - large).norm() > 0.02 * large.norm()


def test_a_last_step_that_lacks_batches_takes_the_first_ones_again(
    setting: Setting, tmp_path: Path
) -> None:
    network = setting.network()
    calls = []
    network.register_forward_pre_hook(lambda module, _: calls.append(module.training))
    setting.learn(tmp_path, network, twins()[:3], epochs=1, max_length=64, batch_tokens=64, accumulate=2)
    assert calls.count(True) == 4


@pytest.mark.parametrize(("trained", "lowest"), [(0, 2), (1, 1), (2, 0), (-1, -1)])
def test_only_layers_that_are_trained_move(
    setting: Setting, tmp_path: Path, trained: int, lowest: int
) -> None:
    network = setting.network()
    before = weights_of(network)
    setting.learn(tmp_path, network, epochs=1, trained_layers=trained, average=0.5)
    expected = {name for name in before if network.layer_of(name) >= lowest}
    assert moved(before, weights_of(network)) == expected
    assert moved(before, checkpoint_of(tmp_path)) == expected


def test_gradual_thaws_one_more_layer_in_each_epoch(setting: Setting, tmp_path: Path) -> None:
    network = setting.network()
    seen = [weights_of(network)]
    setting.learn(
        tmp_path,
        network,
        toy_corpus(30, 1).documents,
        lambda folder, epoch: seen.append(weights_of(network)),
        epochs=4,
        trained_layers=0,
        unfreeze="gradual",
    )
    for epoch, lowest in ((1, 2), (2, 1), (3, 0), (4, -1)):
        expected = {name for name in seen[0] if network.layer_of(name) >= lowest}
        assert moved(seen[epoch - 1], seen[epoch]) == expected, epoch


def test_lower_layers_learn_more_slowly(setting: Setting, tmp_path: Path) -> None:
    network = setting.network(dropout=0.0)
    before = weights_of(network)
    one_step = {"epochs": 1, "batch_tokens": 256, "max_length": 64, "weight_decay": 0.0}
    setting.learn(tmp_path, network, twins(), **one_step, lr=4e-3, head_lr=1e-3, layer_decay=0.5)
    after = weights_of(network)
    # The first step of Adam moves each weight by its rate, whatever its gradient.
    furthest = dict.fromkeys((-1, 0, 1, 2), 0.0)
    for name, value in after.items():
        layer = network.layer_of(name)
        furthest[layer] = max(furthest[layer], float((value - before[name]).abs().max()))
    assert furthest == pytest.approx({2: 1e-3, 1: 4e-3, 0: 2e-3, -1: 1e-3}, rel=0.01)


def test_it_stops_when_patience_epochs_bring_nothing_better(setting: Setting, tmp_path: Path) -> None:
    network = setting.network()
    seen: list[Weights] = []
    setting.learn(
        tmp_path,
        network,
        toy_corpus(30, 1).documents,
        lambda folder, epoch: seen.append(weights_of(network)),
        epochs=9,
        lr=1e-9,
        head_lr=1e-9,
        patience=2,
    )
    assert [epoch.number for epoch in history_of(tmp_path)] == [1, 2, 3]
    best = checkpoint_of(tmp_path)
    assert not moved(best, seen[0])
    assert moved(best, seen[2])


def test_the_checkpoint_is_the_moving_average(setting: Setting, tmp_path: Path) -> None:
    network = setting.network()
    steps: list[Weights] = []

    def keep(module: nn.Module, _: object) -> None:
        if module.training:
            steps.append(weights_of(module))

    network.register_forward_pre_hook(keep)
    setting.learn(tmp_path, network, epochs=1, average=0.7)
    steps.append(weights_of(network))
    shares = [0.7**age for age in reversed(range(len(steps) - 1))]
    expected = {
        name: sum(share * step[name] for share, step in zip(shares, steps[1:], strict=True)) / sum(shares)
        for name in steps[1]
    }
    found = checkpoint_of(tmp_path)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert moved(found, steps[-1])


def test_a_stage_changes_dropout_where_there_is_some(setting: Setting, tmp_path: Path) -> None:
    without = setting.learn(tmp_path / "without", setting.network(dropout=0.0), epochs=1)
    stilled = setting.learn(tmp_path / "stilled", setting.network(dropout=0.1), epochs=1, dropout=0.0)
    never = setting.learn(tmp_path / "never", setting.network(dropout=0.0), epochs=1, dropout=0.5)
    with_it = setting.learn(tmp_path / "with", setting.network(dropout=0.1), epochs=1)
    assert not moved(weights_of(without), weights_of(stilled))
    assert not moved(weights_of(without), weights_of(never))
    assert moved(weights_of(without), weights_of(with_it))


def test_the_moving_average_of_a_short_training_holds_nothing_of_its_start() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(model, multi_avg_fn=moving_average(0.998))  # type: ignore[no-untyped-call]
    for step in range(1, 31):
        nn.init.constant_(model.weight, float(step))
        averaged.update_parameters(model)
    shares = [0.998 ** (30 - step) for step in range(1, 31)]
    expected = sum(share * step for share, step in zip(shares, range(1, 31), strict=True)) / sum(shares)
    assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-5)
