"""This module searches hyper-parameters with Optuna, over the ranges that a recipe declares.

A trial is a complete training by the stages of a run; its value is the average dev F1. Test files are not
read. The study is an SQLite file, so that a killed search can resume.
"""

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from optuna.trial import Trial, TrialState

from app.files import write_whole
from training.data.corpora import load_train
from training.progress import Epoch, Say, Watch, best_f1
from training.recipe import Range, Recipe, Student, Teacher, changed
from training.stages.distill import distill, distillation_data
from training.stages.finetune import finetune_seed
from training.stages.once import claim, processes
from training.stages.run_folder import (
    CHECKPOINT,
    data_made_of,
    ready_members,
    student_folder,
    teacher_folder,
    transfer_made_of,
)
from training.teacher import member_key
from training.trials import ERROR, Value, as_changes, complete, counts, draw, spelled, table

FINETUNE = "finetune"
"""The name of the target for ranges of fine-tuning; every other target has a student's name."""

_SEARCHED = ("architecture", "encoder", "labelled", "size", "transfer")
"""The fields of a student that a search may change: everything that `distill` uses except the seed."""

_HOPELESS = 3
"""A search ends when its first trials, at least this many, all fail: the ranges are then the cause."""

_RETRY = "retry of"
"""The attribute of a trial that repeats an interrupted one; its value is the interrupted trial's number."""

_STAGE = 1000
"""The pruner's step for epoch N of the second stage is this plus N, whatever the first stage's length."""

TrainTrial = Callable[[Recipe, Watch], Path]
"""Trains a trial's recipe and returns the folder of the training that gives the trial's value."""


@dataclass(frozen=True)
class _Target:
    """Holds the target of a search.

    Attributes:
        name: `finetune`, or a student's name.
        ranges: the ranges by the dotted keys of their values.
        folder: the folder of the trials.
    """

    name: str
    ranges: Mapping[str, Range]
    folder: Path

    def trial(self, number: int) -> Path:
        return self.folder / f"trial-{number}"


def search(recipe: Recipe, student: str | None, say: Say) -> Path:
    """Run the trials of a search, or resume it; return the page of its results.

    The best trial's checkpoint stays in `<run>/search/<target>/trial-N`; the other trials keep only their
    history. `<run>/search/<target>.md` lists the trials, best first, and shows the plots beside it.

    Args:
        student: the student to search for; by default fine-tuning is searched, or the only target.

    Raises:
        ValueError: a range names no value of the recipe, or one that no search may change; there are
            several targets and none is named; the first trials all fail; or the folder holds a search
            of another recipe.
    """
    if processes().num_processes > 1:
        raise ValueError("a search is one process; start it without accelerate launch")
    target = _target(recipe, student)
    for name, one in target.ranges.items():
        for value in one.choices or (one.low, one.high):
            changed(recipe, as_changes({name: value}))  # type: ignore[dict-item]  # `low` and `high` are set together
    train_trial = _prepared(recipe, target, say)
    database = target.folder.with_name(f"{target.name}.db")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f"sqlite:///{database}",
        study_name=target.name,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    _resume(study, target, say)
    end = time.monotonic() + 60 * recipe.search.minutes if recipe.search.minutes else None
    while sum(map(counts, study.trials)) < recipe.search.trials and (end is None or time.monotonic() < end):
        _one_more(study, target, recipe, train_trial, say)
        _tidy(study, target)
    page = target.folder.with_name(f"{target.name}.md")
    text = table(study, list(target.ranges), f"Search of {recipe.name}: {target.name}")
    write_whole(page, text + draw(study, target.folder))
    say(text)
    return page


def _target(recipe: Recipe, student: str | None) -> _Target:
    """Return the target to search, with its ranges; raise ValueError as `search` does."""
    ranges: dict[str, dict[str, Range]] = {}
    names = [one.name for one in recipe.students]
    for key, one in recipe.search.ranges.items():
        ranges.setdefault(_touched(key, names), {})[key] = one
    if student is not None and student not in (*ranges, *names):
        raise ValueError(f"{recipe.file}: no student {student}; it has {', '.join(names) or 'none'}")
    if student is not None and student not in ranges:
        raise ValueError(
            f"{recipe.file}: search.ranges has none of {student}; add one such as "
            f'"students.{student}.transfer.lr" = {{ low = 1e-4, high = 1e-2, log = true }}'
        )
    if student is None and FINETUNE in ranges:
        student = FINETUNE
    if student is None and len(ranges) != 1:
        if not ranges:
            raise ValueError(
                f"{recipe.file}: search.ranges is empty; add one such as "
                '"finetune.lr" = { low = 5e-5, high = 5e-4, log = true }'
            )
        raise ValueError(
            f"{recipe.file}: search.ranges has ranges of {', '.join(sorted(ranges))}, and one is searched "
            "at a time; name a student with --student, or leave one's ranges in"
        )
    name = next(iter(ranges)) if student is None else student
    return _Target(name, ranges[name], recipe.run_folder / "search" / name)


def _touched(key: str, students: Sequence[str]) -> str:
    """Return the name of the target that a range belongs to."""
    if key.startswith("finetune.") and key != "finetune.seeds":
        return FINETUNE
    for name in students:
        if f"{key}.".startswith(tuple(f"students.{name}.{part}." for part in _SEARCHED)):
            return name
    raise ValueError(
        f"search.ranges: {key!r} is nothing to search; that is finetune.KEY, or students.NAME.KEY "
        f"with KEY of {', '.join(_SEARCHED)} and NAME of {', '.join(students) or 'none'}"
    )


def _prepared(recipe: Recipe, target: _Target, say: Say) -> TrainTrial:
    """Claim the target's folder and prepare the data of all trials; return the function that trains one.

    Raises:
        ValueError: the folder holds a search of another recipe.
    """
    made_of = data_made_of(recipe)
    made_of["search"] = recipe.search.seed, {k: v.model_dump() for k, v in target.ranges.items()}
    if target.name == FINETUNE:
        if not recipe.finetune.seeds:
            raise ValueError(f"{recipe.file}: finetune.seeds is empty; give one to search fine-tuning with")
        seed = recipe.finetune.seeds[0]
        claim(target.folder, made_of | {"finetune": recipe.finetune.model_dump(mode="json"), "seed": seed})
        corpora = load_train(recipe)

        def tune(trial: Recipe, watch: Watch) -> Path:
            finetune_seed(trial, seed, corpora, watch)
            return teacher_folder(trial, seed)

        return tune

    members = ready_members(recipe)
    made_of |= {
        "student": _student(recipe, target.name).model_dump(mode="json"),
        "teacher": [member_key(member)[:16] for member in members],
        "transfer": transfer_made_of(recipe.transfer),
    }
    claim(target.folder, made_of)
    data = distillation_data(recipe, say)
    shared = {
        "finetune": recipe.finetune.model_copy(update={"seeds": ()}),
        "teacher": Teacher(members=tuple(map(str, members))),
    }

    def teach(trial: Recipe, watch: Watch) -> Path:
        student = _student(trial, target.name)
        distill(trial.model_copy(update=shared), student, data, watch)
        return student_folder(trial, student) / ("labelled" if student.labelled else "transfer")

    return teach


def _one_more(
    study: optuna.Study, target: _Target, recipe: Recipe, train_trial: TrainTrial, say: Say
) -> None:
    """Run one trial and record its result in the study."""
    fresh = sum(
        _RETRY not in trial.user_attrs and len(trial.params) == len(target.ranges) for trial in study.trials
    )
    # The seed depends on the trial's number, so that a resumed search draws the same values.
    seed = random.Random(f"{recipe.search.seed}/{fresh}").getrandbits(32)
    study.sampler = optuna.samplers.TPESampler(seed=seed)

    def objective(trial: Trial) -> float:
        if (before := trial.user_attrs.get(_RETRY)) is not None:
            for step, value in study.trials[before].intermediate_values.items():
                trial.report(value, step)
        values = {name: _suggested(trial, name, one) for name, one in target.ranges.items()}
        say(f"trial {trial.number}: {spelled(values)}")
        tried = changed(recipe, as_changes(values))
        tried = tried.model_copy(update={"output": str(target.trial(trial.number))})
        try:
            folder = train_trial(tried, _pruning(trial, tried, target))
            return best_f1(folder)
        except (ValueError, torch.OutOfMemoryError) as error:  # values that do not fit together
            trial.set_user_attr(ERROR, str(error))
            raise

    study.optimize(objective, n_trials=1, catch=(ValueError, torch.OutOfMemoryError))
    last = next(trial for trial in reversed(study.trials) if trial.state.is_finished())
    if last.state == TrialState.COMPLETE:
        say(f"trial {last.number}: dev F1 {last.value:.2f}, best {study.best_value:.2f}")
    elif last.state == TrialState.PRUNED:
        say(f"trial {last.number}: ended early, below the median")
    else:
        say(f"trial {last.number}: failed: {last.user_attrs[ERROR]}")
    failed = [trial for trial in study.trials if ERROR in trial.user_attrs]
    if len(failed) >= _HOPELESS and len(failed) == sum(map(counts, study.trials)):
        raise ValueError(
            f"the first {len(failed)} trials failed, the last because: {failed[-1].user_attrs[ERROR]}; "
            f"mend search.ranges and delete {target.folder} and {target.name}.db beside it"
        )


def _pruning(trial: Trial, recipe: Recipe, target: _Target) -> Watch:
    """Return a watch that reports each epoch to the pruner, which may end the trial before the last."""
    last = recipe.finetune.epochs
    if target.name != FINETUNE:
        student = _student(recipe, target.name)
        last = _STAGE + student.labelled.epochs if student.labelled else student.transfer.epochs

    def watch(folder: Path, epoch: Epoch) -> None:
        step = epoch.number + (_STAGE if folder.name == "labelled" else 0)
        trial.report(epoch.average, step)
        if step < last and trial.should_prune():
            raise optuna.TrialPruned

    return watch


def _resume(study: optuna.Study, target: _Target, say: Say) -> None:
    """Queue interrupted trials again; each takes over the folder of its predecessor and resumes."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    again = {trial.user_attrs.get(_RETRY) for trial in study.trials}
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if ERROR in trial.user_attrs or trial.number in again or len(trial.params) < len(target.ranges):
            continue
        study.enqueue_trial(trial.params, user_attrs={_RETRY: trial.number})
        say(f"trial {trial.number}: was interrupted, is tried again")
    for trial in study.trials:
        before = trial.user_attrs.get(_RETRY)
        if before is not None and target.trial(before).exists() and not target.trial(trial.number).exists():
            target.trial(before).rename(target.trial(trial.number))


def _tidy(study: optuna.Study, target: _Target) -> None:
    """Delete the saved states of finished trials, and all checkpoints but the best; keep histories."""
    best = study.best_trial.number if complete(study) else None
    for trial in filter(counts, study.trials):
        for state in target.trial(trial.number).rglob("state"):
            for file in state.iterdir():
                if file.name != "history.json":
                    file.unlink() if file.is_file() else shutil.rmtree(file)
            if trial.number != best:
                shutil.rmtree(state.with_name(CHECKPOINT), ignore_errors=True)


def _suggested(trial: Trial, name: str, one: Range) -> Value:
    if one.choices:
        return trial.suggest_categorical(name, one.choices)  # type: ignore[no-any-return]
    assert one.low is not None
    assert one.high is not None
    if isinstance(one.low, int) and isinstance(one.high, int):
        return trial.suggest_int(name, one.low, one.high, log=one.log)  # type: ignore[no-any-return]
    return trial.suggest_float(name, one.low, one.high, log=one.log)  # type: ignore[no-any-return]


def _student(recipe: Recipe, name: str) -> Student:
    return next(student for student in recipe.students if student.name == name)
