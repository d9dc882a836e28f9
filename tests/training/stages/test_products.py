"""Which networks of a run become versions, told from what their trainings left."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.training.toy import STUDENTS, write_recipe
from training.recipe import Recipe, load_recipe
from training.stages.products import best_teacher_product, compared_products, student_product
from training.stages.run_folder import student_folder, teacher_folder


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path, (1, 2), STUDENTS))


def trained(folder: Path, averages: Sequence[float], done: bool = True) -> Path:
    """What a training with these dev F1 leaves, but for the weights."""
    (folder / "state").mkdir(parents=True)
    epochs = [{"number": n, "loss": 0.1, "dev": {}, "average": one} for n, one in enumerate(averages, 1)]
    (folder / "state/history.json").write_text(json.dumps(epochs))
    if done:
        (folder / "done").touch()
    return folder


def test_the_seed_that_did_best_becomes_the_recipes_version(recipe: Recipe) -> None:
    trained(teacher_folder(recipe, 1), [70.0, 60.0])
    best = trained(teacher_folder(recipe, 2), [50.0, 80.0])
    product = best_teacher_product(recipe)
    assert (product.name, product.checkpoint, product.folder) == ("toy", best / "checkpoint", best)
    assert product.lineage["seeds"] == [2]
    assert [epoch["average"] for epoch in product.lineage["epochs"]["seed-2"]] == [50.0, 80.0]


@pytest.mark.parametrize(
    ("labelled", "best", "said"),
    [
        (90.0, "labelled", "which did better on dev."),
        (70.0, "transfer", "no better on dev and is left out."),
    ],
)
def test_of_a_students_trainings_the_better_one_is_published(
    recipe: Recipe, labelled: float, best: str, said: str
) -> None:
    student = recipe.students[0]
    folder = student_folder(recipe, student)
    trained(folder / "transfer", [80.0])
    trained(folder / "labelled", [labelled])
    product = student_product(recipe, student)
    assert product.checkpoint == folder / best / "checkpoint"
    assert product.lineage["made"].startswith("Distilled from an ensemble of 2 fine-tuned encoders")
    assert product.lineage["made"].endswith(said)
    assert list(product.lineage["epochs"]) == ["transfer", "labelled"]


def test_what_is_not_finished_is_not_published(recipe: Recipe) -> None:
    student = recipe.students[0]
    folder = student_folder(recipe, student)
    trained(folder / "transfer", [80.0])
    trained(folder / "labelled", [80.0], done=False)
    with pytest.raises(ValueError, match="labelled: its training is not finished; nerve-train run goes on"):
        student_product(recipe, student)


def test_students_are_compared_with_teachers_and_with_themselves_alone(recipe: Recipe) -> None:
    for seed in (1, 2):
        trained(teacher_folder(recipe, seed), [70.0])
    trained(student_folder(recipe, recipe.students[0]) / "alone", [60.0])
    names = [product.name for product in compared_products(recipe)]
    assert names == ["toy-teacher-1", "toy-teacher-2", "toy-cnn-alone"]


def test_a_recipe_that_trains_nothing_has_nothing_to_export(recipe: Recipe) -> None:
    none = recipe.finetune.model_copy(update={"seeds": ()})
    with pytest.raises(ValueError, match=r"has no finetune\.seeds and no students"):
        best_teacher_product(recipe.model_copy(update={"finetune": none}))
