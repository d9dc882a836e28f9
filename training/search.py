"""Hyper-parameter search with Optuna, over the ranges that a recipe declares.

A trial is a training of its own, done by the stages of a run, and is worth its dev F1. Test files are not
read. The study is an SQLite file, so a killed search goes on.
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
"""The target of ranges of fine-tuning; others are students' names."""

_SEARCHED = ("architecture", "encoder", "labelled", "size", "transfer")
"""What a search may change of a student: all that `distill` makes it of, but its seed."""

_HOPELESS = 3
"""A search ends when so many trials at its start all failed: then the ranges are to blame, not chance."""

_RETRY = "retry of"
"""The attribute of a trial that tries an interrupted one again; it holds that one's number."""

_STAGE = 1000
"""Steps of the pruner between two stages, so that the same step is the same epoch in all trials."""

TrainTrial = Callable[[Recipe, Watch], Path]
"""Trains what a trial's recipe says; returns the folder of the training that counts."""


@dataclass(frozen=True)
class _Target:
    """What is searched.

    Attributes:
        name: `finetune` or a student's.
        ranges: of its values.
        folder: where trials lie.
    """

    name: str
    ranges: Mapping[str, Range]
    folder: Path

    def trial(self, number: int) -> Path:
        return self.folder / f"trial-{number}"


def search(recipe: Recipe, student: str | None, say: Say) -> Path:
    """Try values of the recipe's ranges, or go on with it; the page that says what came of it.

    The best trial's checkpoint stays in `<run>/search/<target>/trial-N`, of the others only how they
    went. `<run>/search/<target>.md` has the trials, best first, and the plots beside it.

    Args:
        student: whose ranges to search; without one those of fine-tuning, where the recipe has some.

    Raises:
        ValueError: a range names no value of the recipe, or one that no search may change; there are
            several targets and none is named; the first trials all fail; or the folder holds a search
            that was made with something else.
    """
    if processes().num_processes > 1:
        raise ValueError("a search is one process; start it without accelerate launch")
    target = _target(recipe, student)
    for name, one in target.ranges.items():
        for value in one.choices or (one.low, one.high):
            changed(recipe, as_changes({name: value}))  # type: ignore[dict-item]  # both are there
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
    """The ranges of one target.

    Raises:
        ValueError: see `search`.
    """
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
    """The target of a range."""
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
    """What trains a trial, with everything made that trials share; claims the target's folder.

    Raises:
        ValueError: the folder holds a search that was made with something else.
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
    """Train one trial and note how it went."""
    fresh = sum(
        _RETRY not in trial.user_attrs and len(trial.params) == len(target.ranges) for trial in study.trials
    )
    # Seeded by its number: a search that was killed draws what one that was not would have drawn.
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
        except (ValueError, torch.OutOfMemoryError) as error:  # values that do not go together
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
    """Feeds the pruner after each epoch; after the last one there is nothing to save any more."""
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
    """Queue trials again that never came to an end; they go on where they stood."""
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
    """Delete the weights of each finished trial but the best; how it went stays."""
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
