"""Soups of toy networks."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from app.labels import tags_of
from tests.training.models.teachers import student, toy_teacher
from tests.training.toy import write_corpus, write_recipe
from training.data.corpora import load_train
from training.models import load_tagger
from training.models.tagger import Tagger
from training.models.transformer import TransformerTagger
from training.recipe import Recipe, load_recipe
from training.soup import average, soup
from training.stages.finetune import finetune_seed
from training.teacher import CheckpointMember, member_key, open_member


def silent(line: str) -> None:
    """Ignore the message."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tagger(folder).state_dict()


def saved(tagger: Tagger, folder: Path, tokenizer: Path) -> Path:
    tagger.save(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, list[Path]]:
    """A toy recipe and the checkpoints of its three seeds, of which the last learned nothing."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_recipe(folder)
    write_corpus(folder / "train.jsonl", 150, 1)
    write_corpus(folder / "dev.jsonl", 20, 2)
    recipe = load_recipe(path, ["finetune.epochs=1"])
    idle = load_recipe(path, ["finetune.epochs=1", "finetune.lr=1e-9", "finetune.head_lr=1e-9"])
    corpora = load_train(recipe)
    return recipe, [
        finetune_seed(one, seed, corpora) for one, seed in ((recipe, 1), (recipe, 2), (idle, 3))
    ]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TransformerTagger:
    return toy_teacher(tmp_path_factory.mktemp("teacher"))


def test_a_uniform_soup_is_the_numeric_mean(runs: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    members = runs[1][:2]
    output = soup(members, tmp_path / "soup", None, False, silent)
    first, second, mixed = map(weights, (*members, output))
    assert mixed.keys() == first.keys()
    for name, value in mixed.items():
        assert torch.equal(value, ((first[name].double() + second[name].double()) / 2).float()), name
    assert any(not torch.equal(first[name], value) for name, value in mixed.items())
    described = json.loads((output / "soup.json").read_text())
    assert [one["sha256"] for one in described["members"]] == list(map(member_key, members))
    assert described["dev_f1"] is None


def test_a_soup_of_one_is_that_one(runs: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    recipe, (member, *_) = runs
    output = soup([member], tmp_path / "soup", recipe, False, silent)
    for name, value in weights(output).items():
        assert torch.equal(value, weights(member)[name]), name
    described = json.loads((output / "soup.json").read_text())
    assert described["dev_f1"] == described["members"][0]["dev_f1"] > 0
    assert described["dev"] == ["toy-dev"]


def test_a_greedy_soup_is_never_below_its_best_member(
    runs: tuple[Recipe, list[Path]], tmp_path: Path
) -> None:
    recipe, members = runs
    described = {}
    for greedy in (True, False):
        output = soup(members[::-1], tmp_path / f"soup-{greedy}", recipe, greedy, silent)
        described[greedy] = json.loads((output / "soup.json").read_text())
    best = max(one["dev_f1"] for one in described[True]["members"])
    assert described[True]["dev_f1"] >= best > described[False]["dev_f1"]
    assert [one["taken"] for one in described[False]["members"]] == [True, True, True]
    assert described[True]["members"][0]["taken"] is False  # the one that learned nothing


def test_a_soup_can_teach_and_is_made_again(runs: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    recipe, members = runs
    output = soup(members[:2], tmp_path / "soup", None, False, silent)
    before = member_key(output)
    member = open_member(output, tags_of(recipe.labels, recipe.scheme), recipe)
    assert isinstance(member, CheckpointMember)
    member.close()
    assert member_key(soup(members[:2], output, None, False, silent)) == before


@pytest.mark.parametrize("architecture", ["transformer", "bilstm", "cnn"])
def test_a_mean_of_equals_is_the_same_whatever_the_network(
    teacher: TransformerTagger, runs: tuple[Recipe, list[Path]], tmp_path: Path, architecture: str
) -> None:
    tagger, tokenizer = student(architecture, teacher), runs[1][0] / "tokenizer.json"
    folders = [saved(tagger, tmp_path / str(number), tokenizer) for number in range(3)]
    mean = average(folders)
    assert all(torch.equal(mean[name], value) for name, value in tagger.state_dict().items())


def test_checkpoints_that_differ_are_refused(
    teacher: TransformerTagger, runs: tuple[Recipe, list[Path]], tmp_path: Path
) -> None:
    member = runs[1][0]
    tokenizer = member / "tokenizer.json"
    wide = saved(student("bilstm", teacher, hidden=10), tmp_path / "wide", tokenizer)
    narrow = saved(student("bilstm", teacher, hidden=6), tmp_path / "narrow", tokenizer)
    with pytest.raises(ValueError, match=r"narrow: differs from .*wide: hidden 6, not 10"):
        soup([wide, narrow], tmp_path / "soup", None, False, silent)
    with pytest.raises(ValueError, match="architecture 'bilstm', not 'transformer'"):
        soup([member, wide], tmp_path / "soup", None, False, silent)
    with pytest.raises(ValueError, match=r"tags \('O', 'B-PER', .*\), not \('O', .*'S-LOC'"):
        soup([member, saved(teacher, tmp_path / "iob2", tokenizer)], tmp_path / "soup", None, False, silent)

    other = tmp_path / "other"
    shutil.copytree(member, other)
    described = json.loads(tokenizer.read_text())
    described["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"other: has another tokenizer\.json"):
        soup([member, other], tmp_path / "soup", None, False, silent)
    assert not (tmp_path / "soup").exists()


def test_mistakes_are_named(runs: tuple[Recipe, list[Path]], tmp_path: Path) -> None:
    recipe, members = runs
    with pytest.raises(ValueError, match="a soup needs a checkpoint"):
        soup([], tmp_path / "soup", None, False, silent)
    with pytest.raises(ValueError, match="is named twice"):
        soup([members[0], members[0]], tmp_path / "soup", None, False, silent)
    with pytest.raises(ValueError, match="chosen on dev corpora; name a recipe"):
        soup(members, tmp_path / "soup", None, True, silent)
    with pytest.raises(ValueError, match="nowhere: no checkpoint"):
        soup([tmp_path / "nowhere"], tmp_path / "soup", None, False, silent)
    with pytest.raises(ValueError, match="exists and is no soup"):
        soup(members, members[2], None, False, silent)
    other = load_recipe(Path(recipe.file), ["scheme=IOB2"])
    with pytest.raises(ValueError, match="name the recipe it was trained with"):
        soup(members, tmp_path / "soup", other, False, silent)
    mixed = soup(members[:2], tmp_path / "soup", None, False, silent)
    with pytest.raises(ValueError, match="is a member of the soup"):
        soup([members[0], mixed], mixed, None, False, silent)
