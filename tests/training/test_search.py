"""Searches over a toy recipe: real trainings, a real SQLite file."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from tests.training.toy import write_corpus, write_recipe
from training.data.corpora import load_train
from training.models import load_tagger
from training.recipe import Recipe, load_recipe
from training.search import search
from training.stages.finetune import finetune_seed
from training.stages.run_folder import teacher_folder

STUDENT = """
[[students]]
name = "toy.tiny"
architecture = "bilstm"
size = { embedding = 8, hidden = 8, layers = 1, dropout = 0.0 }
transfer = { epochs = 1, lr = 5e-3, batch_tokens = 256, max_length = 32, losses = { mse = 1.0 } }
labelled = { epochs = 1, lr = 5e-3, batch_tokens = 256, max_length = 32 }
"""

RATE = 'search.ranges={"finetune.lr" = { low = 1e-5, high = 1e-2, log = true }}'
HIDDEN = (
    'search.ranges={"students.toy.tiny.transfer.lr" = { choices = [1e-3, 1e-2] }, '
    '"students.toy.tiny.size.hidden" = { low = 4, high = 12 }}'
)

FEW = ("finetune.epochs=1", "search.trials=3", "transfer.texts=[]")


def silent(line: str) -> None:
    """Ignore the message."""


def toy(folder: Path, *changes: str) -> Recipe:
    """A recipe of few texts, one epoch and one student."""
    if not (folder / "toy.toml").exists():
        write_recipe(folder, students=STUDENT)
        write_corpus(folder / "train.jsonl", 120, 1)
        write_corpus(folder / "dev.jsonl", 20, 2)
    return load_recipe(folder / "toy.toml", [*FEW, *changes])


def trials(recipe: Recipe, target: str = "finetune") -> list[optuna.trial.FrozenTrial]:
    database = recipe.run_folder / f"search/{target}.db"
    found: list[optuna.trial.FrozenTrial] = optuna.load_study(
        storage=f"sqlite:///{database}", study_name=target
    ).trials
    return found


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A search over fine-tuning, and its page."""
    recipe = toy(tmp_path_factory.mktemp("searched"), RATE)
    return recipe, search(recipe, None, silent)


def test_the_page_has_the_trials_best_first_and_the_plots(searched: tuple[Recipe, Path]) -> None:
    recipe, page = searched
    text = page.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 0", "| 1", "| 2"))]
    values = [float(row[1]) for row in rows]
    assert len(rows) == 3
    assert values == sorted(values, reverse=True)
    assert values[0] == round(max(trial.value or 0 for trial in trials(recipe)), 2)
    assert "![history](finetune-history.svg)" in text
    assert "<svg" in (page.parent / "finetune-slice.svg").read_text(encoding="utf-8")


def test_the_line_of_the_best_makes_the_best_recipe(searched: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, page = searched
    line = page.read_text(encoding="utf-8").split("    --set ")[1].splitlines()[0]
    changes = [part for part in shlex.split(f"--set {line}") if part != "--set"]
    best = max(trials(recipe), key=lambda trial: trial.value or 0)
    again = toy(Path(recipe.file).parent, *changes, f'output="{tmp_path}"')
    assert again.finetune.lr == best.params["finetune.lr"]

    finetune_seed(again, 1, load_train(again))
    history = json.loads((teacher_folder(again, 1) / "state/history.json").read_text(encoding="utf-8"))
    assert max(epoch["average"] for epoch in history) == best.value


def test_only_the_best_trial_keeps_its_weights(searched: tuple[Recipe, Path]) -> None:
    recipe, page = searched
    best = max(trials(recipe), key=lambda trial: trial.value or 0)
    kept = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.safetensors")}
    assert kept == {f"finetune/trial-{best.number}/teacher/seed-1/checkpoint/model.safetensors"}
    assert len(list(page.parent.rglob("history.json"))) == 3
    assert load_tagger(page.parent / f"finetune/trial-{best.number}/teacher/seed-1/checkpoint").depth == 2


def test_a_longer_search_goes_on(searched: tuple[Recipe, Path]) -> None:
    recipe, _ = searched
    before = [trial.datetime_complete for trial in trials(recipe)]
    longer = toy(Path(recipe.file).parent, RATE, "search.trials=4")
    search(longer, None, silent)
    after = trials(longer)
    assert [trial.datetime_complete for trial in after[:3]] == before
    assert len({trial.params["finetune.lr"] for trial in after}) == 4  # no draw is repeated


def test_a_search_of_other_ranges_is_another(searched: tuple[Recipe, Path]) -> None:
    recipe, _ = searched
    other = toy(Path(recipe.file).parent, RATE.replace("1e-2", "1e-3"))
    with pytest.raises(ValueError, match="was made with other search"):
        search(other, None, silent)


def test_a_killed_search_ends_like_one_that_was_not(searched: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe = toy(tmp_path, RATE)
    program = (
        "import sys; from pathlib import Path; from training.recipe import load_recipe; "
        "from training.search import search; "
        "search(load_recipe(Path(sys.argv[1]), sys.argv[2:]), None, print)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, recipe.file, RATE, *FEW],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    second = tmp_path / "run/search/finetune/trial-1/teacher/seed-1/made_of.json"
    while not second.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

    lines: list[str] = []
    search(recipe, None, lines.append)
    assert "trial 1: was interrupted, is tried again" in lines
    assert [trial.state.name for trial in trials(recipe)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    whole = [(trial.params, trial.value) for trial in trials(searched[0])[:3]]
    assert [(one.params, one.value) for one in trials(recipe) if one.value is not None] == whole
    assert not (tmp_path / "run/search/finetune/trial-1").exists()


def test_a_student_is_searched_with_one_teacher_and_one_transfer_set(tmp_path: Path) -> None:
    recipe = toy(tmp_path, HIDDEN, "search.trials=2")
    with pytest.raises(ValueError, match=r"seed-1/checkpoint: not there; nerve-train finetune"):
        search(recipe, None, silent)
    finetune_seed(recipe, 1, load_train(recipe))
    text = search(recipe, "toy.tiny", silent).read_text(encoding="utf-8")
    assert "`students.toy.tiny.size.hidden`" in text
    assert len([line for line in text.splitlines() if line.startswith(("| 0", "| 1"))]) == 2
    assert len(list((tmp_path / "run").rglob("*.npy"))) == 1  # the teacher's answers
    assert len(list((tmp_path / "run").rglob("texts.jsonl.gz"))) == 1
    best = max(trials(recipe, "toy.tiny"), key=lambda trial: trial.value or 0)
    (kept,) = (tmp_path / "run/search").rglob("labelled/checkpoint/tagger.json")
    assert json.loads(kept.read_text())["hidden"] == best.params["students.toy.tiny.size.hidden"]


def test_hopeless_trials_are_ended_early(tmp_path: Path) -> None:
    """After five complete trials, a learning rate that learns nothing is pruned after its first epoch."""
    choices = 'search.ranges={"finetune.lr" = { choices = [5e-3, 1e-9] }, "finetune.head_lr" = CHOICES}'
    recipe = toy(tmp_path, choices.replace("CHOICES", "{ low = 5e-3, high = 6e-3 }"))
    lines: list[str] = []
    patient = recipe.finetune.model_copy(update={"epochs": 3, "patience": 3})
    longer = recipe.search.model_copy(update={"trials": 12})
    search(recipe.model_copy(update={"finetune": patient, "search": longer}), None, lines.append)
    pruned = [trial for trial in trials(recipe) if trial.state.name == "PRUNED"]
    whole = [trial for trial in trials(recipe) if trial.state.name == "COMPLETE"]
    assert len(pruned) + len(whole) == 12
    assert pruned
    assert all(len(trial.intermediate_values) < 3 for trial in pruned)
    assert all(len(trial.intermediate_values) == 3 for trial in whole)
    assert f"trial {pruned[0].number}: ended early, below the median" in lines


def test_values_that_do_not_go_together_fail_their_trial_alone(tmp_path: Path) -> None:
    ranges = 'search.ranges={"students.toy.tiny.size.KEY" = { choices = [4, 5, 6, 7] }}'
    finetune_seed(toy(tmp_path), 1, load_train(toy(tmp_path)))
    with pytest.raises(ValueError, match=r"first 3 trials failed, .*a bilstm has no such measure"):
        search(toy(tmp_path, ranges.replace("KEY", "cells")), None, silent)

    shutil.rmtree(tmp_path / "run/search")
    transformer = ranges.replace("KEY", "heads"), "students.toy.tiny.architecture=transformer"
    small = 'students.toy.tiny.size={"layers" = 1, "width" = 28}'  # five or six heads do not divide it
    recipe = toy(tmp_path, *transformer, small, "search.trials=5", "search.seed=3")
    text = search(recipe, None, silent).read_text(encoding="utf-8")
    assert "failed: student size width = 28: is not divisible by heads" in text
    assert any(trial.state.name == "COMPLETE" for trial in trials(recipe, "toy.tiny"))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ("", "search.ranges is empty"),
        ('"finetune.speed" = { low = 1, high = 2 }', "finetune.speed: Extra inputs are not permitted"),
        ('"finetune.lr" = { low = -1e-3, high = 1e-3 }', "finetune.lr: Input should be greater than 0"),
        ('"finetune.seeds" = { low = 1, high = 5 }', "'finetune.seeds' is nothing to search"),
        ('"export.stride" = { low = 1, high = 5 }', "'export.stride' is nothing to search"),
        ('"students.huge.size.hidden" = { low = 1, high = 5 }', "NAME of toy.tiny"),
        ('"students.toy.tiny.seed" = { low = 1, high = 5 }', "'students.toy.tiny.seed' is nothing"),
        ('"students.toy.tiny.transfer.pace" = { low = 1, high = 5 }', "transfer.pace: Extra inputs"),
    ],
)
def test_a_wrong_range_is_named_before_anything_is_trained(
    searched: tuple[Recipe, Path], tmp_path: Path, ranges: str, message: str
) -> None:
    folder = Path(searched[0].file).parent
    recipe = toy(folder, f"search.ranges={{{ranges}}}", f'output="{tmp_path}/run"')
    with pytest.raises(ValueError, match=re.escape(message)):
        search(recipe, None, silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ("{}", "a range has either low and high, or choices"),
        ("{ low = 1, high = 2, choices = [1] }", "a range has either low and high, or choices"),
        ("{ low = 1 }", "low and high must both be there"),
        ("{ low = 2, high = 1 }", "low not above high"),
        ("{ low = 0, high = 1, log = true }", "log: low must be above 0"),
    ],
)
def test_a_range_that_is_none_is_named(searched: tuple[Recipe, Path], one: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(Path(searched[0].file).parent, f'search.ranges={{"finetune.lr" = {one}}}')
