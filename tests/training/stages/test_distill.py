"""Students of the toy teacher, and what is kept of their training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.engine.text.tokenizer import Tokenizer
from tests.training.toy import write_encoder
from training.data.corpora import load_held_out
from training.data.encode import NO_TARGET
from training.inference import f1_of
from training.models import load_tagger
from training.recipe import Recipe, load_recipe
from training.stages.distill import DistillationData, distill, distill_stage, distillation_data
from training.stages.run_folder import find_students, student_folder

STUDENTS = """
[[students]]
name = "foreign"
architecture = "cnn"
size = { embedding = 16, width = 32, dilations = [1, 2], dropout = 0.0 }
encoder = { path = "FOLDER/syllables", dropout = 0.0 }

[students.transfer]
epochs = 3
lr = 5e-3
head_lr = 5e-3
batch_tokens = 256
max_length = 64
losses = { mse = 1.0 }

[[students]]
name = "guided"
architecture = "transformer"
size = { layers = 1, width = 16, heads = 2, intermediate = 24 }

[students.transfer]
epochs = 1
lr = 2e-3
batch_tokens = 256
max_length = 32
losses = { kl = 1.0, hidden = 1.0 }

[students.labelled]
epochs = 1
lr = 1e-3
batch_tokens = 256
max_length = 32
losses = { kl = 0.5, cross_entropy = 0.5 }
"""


def silent(line: str) -> None:
    """Ignore the message."""


@pytest.fixture(scope="module")
def recipe(tuned: Path) -> Recipe:
    """The trained toy with students of its own, in its own folders."""
    write_encoder(tuned / "syllables", syllable=3)
    whole = (tuned / "toy.toml").read_text(encoding="utf-8")
    file = tuned / "others.toml"
    students = STUDENTS.replace("FOLDER", str(tuned))
    file.write_text(whole[: whole.index("[[students]]")] + students, encoding="utf-8")
    return load_recipe(file)


@pytest.fixture(scope="module")
def data(recipe: Recipe) -> DistillationData:
    return distillation_data(recipe, silent)


@pytest.fixture(scope="module")
def trained(recipe: Recipe) -> list[Path]:
    """The checkpoints of both students."""
    return distill_stage(recipe, (), silent)


def changed(recipe: Recipe, name: str, **values: object) -> Recipe:
    """The recipe with another student of this name."""
    students = [one.model_copy(update=values) if one.name == name else one for one in recipe.students]
    return recipe.model_copy(update={"students": tuple(students)})


def train(recipe: Recipe, data: DistillationData, name: str) -> Path:
    (student,) = find_students(recipe, [name])
    return distill(recipe, student, data)


def test_the_data_has_the_teachers_answer_for_every_word(recipe: Recipe, data: DistillationData) -> None:
    assert data.transfer.counts["labelled"] == len(data.corpora[0].documents)
    assert data.transfer.counts["raw.txt"] > 0
    assert data.transfer.counts["mentions"] > 0
    texts = data.transfer.texts
    assert sum(len(data.answers.of_text(number)) for number in range(len(texts))) == data.transfer.words
    assert all((data.answers.of_text(number) != NO_TARGET).all() for number in range(len(texts)))
    assert [corpus.name for corpus in data.dev] == ["toy-dev"]
    first, second = (np.exp(np.load(file)).sum(1) for file in (recipe.run_folder / "answers").glob("*.npy"))
    np.testing.assert_allclose(first, 1, atol=0.01)
    np.testing.assert_allclose(second, 1, atol=0.01)


def test_a_student_of_another_tokenizer_learns(recipe: Recipe, trained: Sequence[Path]) -> None:
    tokenizer = Tokenizer.from_file(trained[0] / "tokenizer.json")
    (teacher,) = Tokenizer.from_file(recipe.run_folder / "teacher/seed-1/checkpoint/tokenizer.json").encode(
        ["Greta Huber works for Borealis"]
    )
    (student,) = tokenizer.encode(["Greta Huber works for Borealis"])
    assert len(student) > len(teacher) + 4
    dev = load_held_out(recipe.dev, recipe)[0].documents
    assert f1_of(load_tagger(trained[0]), tokenizer, dev, recipe) > 0.95


def test_a_student_is_what_its_recipe_says(trained: Sequence[Path]) -> None:
    foreign, guided = map(load_tagger, trained)
    assert foreign.architecture == "cnn"
    assert (guided.architecture, guided.depth) == ("transformer", 1)
    assert not any("projection" in name for name in load_file(trained[1] / "model.safetensors"))
    assert [folder.parent.name for folder in trained] == ["transfer", "labelled"]


def test_what_is_trained_is_not_trained_again(
    recipe: Recipe, trained: Sequence[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [*recipe.run_folder.rglob("*.safetensors"), *recipe.run_folder.rglob("*.npy")]
    before = {file: file.stat().st_mtime_ns for file in files}
    assert distill_stage(recipe, (), silent) == trained
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "epoch" not in capsys.readouterr().out


def test_the_same_recipe_gives_the_same_guided_student(
    recipe: Recipe, data: DistillationData, trained: Sequence[Path]
) -> None:
    (student,) = find_students(recipe, ["guided"])
    twin = student.model_copy(update={"name": "twin", "labelled": None})
    torch.manual_seed(99)  # what ran before must not matter
    again = load_file(distill(recipe, twin, data) / "model.safetensors")
    first = load_file(student_folder(recipe, student) / "transfer/checkpoint/model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_folder_refuses_a_student_of_another_recipe(
    recipe: Recipe, data: DistillationData, trained: Sequence[Path]
) -> None:
    with pytest.raises(ValueError, match=r"foreign/transfer: was made with other seed \(see"):
        train(changed(recipe, "foreign", seed=7), data, "foreign")
    stage = recipe.students[1].labelled
    assert stage is not None
    other = changed(recipe, "guided", labelled=stage.model_copy(update={"lr": 1.0}))
    with pytest.raises(ValueError, match=r"guided/labelled: was made with other stage"):
        train(other, data, "guided")
    labels = recipe.model_copy(update={"labels": ("ORG", "PER", "LOC")})
    with pytest.raises(ValueError, match=r"was made with other labels"):
        train(labels, data, "guided")


def test_a_transfer_set_is_not_used_for_other_corpora(recipe: Recipe, data: DistillationData) -> None:
    other = recipe.model_copy(update={"test": ()})
    with pytest.raises(ValueError, match=r"transfer: was made with other test"):
        distillation_data(other, silent)


def test_hidden_states_of_different_tokenizers_are_not_compared(
    recipe: Recipe, data: DistillationData
) -> None:
    (foreign,) = find_students(recipe, ["foreign"])
    stage = foreign.transfer.model_copy(update={"losses": {"hidden": 1.0}})
    other = foreign.model_copy(update={"name": "strange", "transfer": stage})
    with pytest.raises(ValueError, match=r"losses\.hidden .* different tokenizers; leave it out"):
        distill(recipe, other, data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "oracle"}, r"architecture 'oracle' is unknown; choose among transformer, "),
        ({"size": {"breadth": 3}}, r"student size breadth: a cnn has no such measure; it has embedding"),
        ({"size": {"width": 0}}, r"student size width = 0: a cnn takes whole numbers from 1"),
    ],
)
def test_a_student_that_cannot_be_made_is_named(
    recipe: Recipe, data: DistillationData, values: dict[str, object], message: str
) -> None:
    other = recipe.students[0].model_copy(update={"name": "wrong", **values})
    with pytest.raises(ValueError, match=message):
        distill(recipe, other, data)
