"""Who teaches and learns in a run, and what is missing."""

from pathlib import Path

import pytest

from tests.training.toy import STUDENTS, write_recipe
from training.recipe import Recipe, load_recipe
from training.stages.run_folder import (
    check_given_members,
    find_students,
    prepare,
    ready_members,
    teacher_members,
    weights_hash,
)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path, (1, 2), STUDENTS))


def test_students_are_found_by_name(recipe: Recipe) -> None:
    assert [student.name for student in find_students(recipe, ())] == ["toy-cnn", "toy-short"]
    assert [student.name for student in find_students(recipe, ["toy-short"])] == ["toy-short"]
    with pytest.raises(ValueError, match=r"toy\.toml: no student nobody; it has toy-cnn, toy-short"):
        find_students(recipe, ["nobody"])


def test_members_are_the_seeds_and_those_that_are_named(recipe: Recipe, tmp_path: Path) -> None:
    given = recipe.teacher.model_copy(update={"members": (str(tmp_path / "other"),)})
    recipe = recipe.model_copy(update={"teacher": given})
    run = tmp_path / "run/teacher"
    members = [run / "seed-1/checkpoint", run / "seed-2/checkpoint", tmp_path / "other"]
    assert teacher_members(recipe) == members
    with pytest.raises(ValueError, match=r"other is no folder here; name a checkpoint's"):
        check_given_members(recipe)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"seed-1/checkpoint: not there; nerve-train finetune"):
        ready_members(recipe)
    for member in members[:2]:
        member.mkdir(parents=True)
    assert ready_members(recipe) == members


def test_the_resolved_recipe_is_kept_unless_the_data_has_problems(recipe: Recipe, tmp_path: Path) -> None:
    wrong = recipe.model_copy(update={"labels": (*recipe.labels, "SHIP")})
    with pytest.raises(ValueError, match="no training corpus has a SHIP"):
        prepare(wrong)
    assert not (tmp_path / "run").exists()
    prepare(recipe)
    kept = Recipe.model_validate_json((tmp_path / "run/recipe.json").read_text(encoding="utf-8"))
    assert kept.model_dump() == recipe.model_dump()


def test_a_folder_without_weights_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights; train it first"):
        weights_hash(tmp_path)
