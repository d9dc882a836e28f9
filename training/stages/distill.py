"""This module distills students: they learn the teacher's answers, and then also from labelled text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.engine.text.tokenizer import Tokenizer
from app.engine.text.words import Ints, split_words
from app.labels import tags_of
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.data.encode import NO_TARGET, encode_raw
from training.data.transfer import TransferSet, build_transfer_set
from training.loop import TrainingData, train
from training.losses import HiddenStateLoss
from training.models import load_tagger, student_of
from training.models.initialisation import seeded
from training.models.tagger import Tagger
from training.progress import Say, Watch
from training.recipe import Recipe, Stage, Student
from training.stages.finetune import labelled_examples, pretrained
from training.stages.once import once, processes
from training.stages.run_folder import (
    CHECKPOINT,
    data_made_of,
    find_students,
    prepare,
    ready_members,
    student_folder,
    teacher_members,
    transfer_made_of,
    weights_hash,
)
from training.teacher import TeacherAnswers, label, member_key


@dataclass(frozen=True)
class DistillationData:
    """Holds the data of all students of a run.

    Attributes:
        corpora: the labelled texts.
        dev: corpora whose F1 chooses the best epoch.
        transfer: the texts that the teacher has labelled.
        answers: the teacher's answers for them.
    """

    corpora: Sequence[LoadedCorpus]
    dev: Sequence[LoadedCorpus]
    transfer: TransferSet
    answers: TeacherAnswers


def distill_stage(recipe: Recipe, names: Sequence[str], say: Say) -> list[Path]:
    """Train students by distillation and, where the recipe has an `alone` stage, without a teacher.

    Args:
        names: the students' names; all students if empty.

    Returns:
        The checkpoint of each student's last distillation stage.

    Raises:
        ValueError: a name is unknown, the recipe has no students, the teacher is not trained, the data has
            problems, or a folder holds a training of another recipe.
    """
    students = find_students(recipe, names)
    if not students:
        raise ValueError(f"{recipe.file}: has no [[students]] that could learn; add one")
    ready_members(recipe)
    prepare(recipe)
    data = distillation_data(recipe, say)
    checkpoints = []
    for student in students:
        say(f"{student.name}: {student.architecture}")
        checkpoints.append(distill(recipe, student, data))
        if student.alone:
            train_alone(recipe, student, data.corpora)
    return checkpoints


def distillation_data(recipe: Recipe, say: Say) -> DistillationData:
    """Build the transfer set and have each member of the teacher label it, unless this was done before.

    Raises:
        ValueError: the run's folder holds a transfer set of another recipe.
    """
    corpora = load_train(recipe)
    held_out = load_held_out((*recipe.dev, *recipe.test), recipe)
    made_of = data_made_of(recipe) | recipe.model_dump(mode="json", include={"test"})
    made_of |= transfer_made_of(recipe.transfer)
    return label_transfer_set(
        recipe, corpora, made_of, lambda: build_transfer_set(recipe, corpora, held_out), say
    )


def label_transfer_set(
    recipe: Recipe,
    corpora: Sequence[LoadedCorpus],
    made_of: Mapping[str, Any],
    build: Callable[[], TransferSet],
    say: Say,
) -> DistillationData:
    """Do the work of `distillation_data` with the transfer set of `build`, which depends on `made_of`."""
    folder = recipe.run_folder / "transfer"
    once(folder, made_of, lambda: build().save(folder / "set"), product="set", together=False)
    transfer = TransferSet.load(folder / "set")
    say(f"transfer set: {len(transfer.texts)} texts of {transfer.words} words, {transfer.counts}")
    tags = tags_of(recipe.labels, recipe.scheme)
    with processes().main_process_first():  # the other processes read the saved answers
        cache = recipe.run_folder / "answers"
        answers = label(teacher_members(recipe), transfer.texts, tags, recipe, cache, say)
    return DistillationData(corpora, load_held_out(recipe.dev, recipe), transfer, answers)


def distill(recipe: Recipe, student: Student, data: DistillationData, watch: Watch | None = None) -> Path:
    """Train a student on the transfer set and then on labelled text, or resume; return the checkpoint.

    Raises:
        ValueError: a folder holds a training of another recipe, or the student cannot be made.
    """
    folder = student_folder(recipe, student)
    first = _learn_transfer_set(recipe, student, data, folder / "transfer", watch)
    if student.labelled is None:
        return first
    return _learn_labelled(recipe, student, student.labelled, data, first, watch)


def train_alone(recipe: Recipe, student: Student, corpora: Sequence[LoadedCorpus]) -> Path:
    """Train the student's network on labelled text only; return its checkpoint.

    Raises:
        ValueError: the folder holds a training of another recipe.
    """
    stage = student.alone
    assert stage is not None
    folder = student_folder(recipe, student) / "alone"

    def work() -> None:
        tokenizer, origin = pretrained(student.encoder or recipe.encoder, recipe, student.seed)
        tagger = _fresh(student, origin, recipe)
        examples = labelled_examples(recipe, corpora, tokenizer)
        data = TrainingData(examples, tokenizer, load_held_out(recipe.dev, recipe))
        train(tagger, data, stage, student.seed, recipe, folder)

    once(folder, data_made_of(recipe) | _made_of(student) | {"stage": _dumped(stage)}, work)
    return folder / CHECKPOINT


def _learn_transfer_set(
    recipe: Recipe, student: Student, data: DistillationData, folder: Path, watch: Watch | None
) -> Path:
    """Train a fresh student on the teacher's answers."""
    stage = student.transfer

    def work() -> None:
        tokenizer, origin = _origin(recipe, student)
        tagger = _fresh(student, origin, recipe)
        rows = [data.answers.of_text(number) for number in range(len(data.transfer.texts))]
        examples = encode_raw(data.transfer.texts, tokenizer, rows)
        hidden = _hidden_state_loss(recipe, student, stage, tagger, tokenizer)
        taught = TrainingData(examples, tokenizer, data.dev, data.answers, hidden)
        train(tagger, taught, stage, student.seed, recipe, folder, watch)

    made_of = data_made_of(recipe) | _made_of(student)
    made_of |= {"teacher": [member_key(member)[:16] for member in teacher_members(recipe)]}
    made_of |= {"stage": _dumped(stage), "texts": data.transfer.key}
    once(folder, made_of, work)
    return folder / CHECKPOINT


def _learn_labelled(
    recipe: Recipe,
    student: Student,
    stage: Stage,
    data: DistillationData,
    first: Path,
    watch: Watch | None,
) -> Path:
    """Train the checkpoint `first` further on labelled text and on the teacher's answers for this text."""
    folder = student_folder(recipe, student) / "labelled"

    def work() -> None:
        tagger = load_tagger(first)
        tokenizer = Tokenizer.from_file(first / "tokenizer.json", recipe.encoder.words)
        examples = labelled_examples(recipe, data.corpora, tokenizer, _rows_of(data, tokenizer))
        hidden = _hidden_state_loss(recipe, student, stage, tagger, tokenizer)
        taught = TrainingData(examples, tokenizer, data.dev, data.answers, hidden)
        train(tagger, taught, stage, student.seed, recipe, folder, watch)

    once(folder, data_made_of(recipe) | {"stage": _dumped(stage), "from": weights_hash(first)}, work)
    return folder / CHECKPOINT


def _rows_of(data: DistillationData, tokenizer: Tokenizer) -> Callable[[str], Ints]:
    """Return a function that gives each word of a labelled text its row of the teacher's answers."""
    numbers = {text: number for number, text in enumerate(data.transfer.texts)}

    def rows(text: str) -> Ints:
        if text in numbers:
            return data.answers.of_text(numbers[text])
        return np.full(len(split_words(text, tokenizer.rule)), NO_TARGET)

    return rows


def _origin(recipe: Recipe, student: Student) -> tuple[Tokenizer, Tagger]:
    """Load the student's own encoder, or else the teacher's first checkpoint, or the recipe's encoder."""
    if student.encoder is None and (folder := _first_checkpoint(recipe)):
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json", recipe.encoder.words)
        return tokenizer, load_tagger(folder)
    return pretrained(student.encoder or recipe.encoder, recipe, student.seed)


def _first_checkpoint(recipe: Recipe) -> Path | None:
    """Return the first member of the teacher that is a checkpoint, not a version; None without one."""
    return next((f for f in teacher_members(recipe) if list(f.glob("*.safetensors"))), None)


def _fresh(student: Student, origin: Tagger, recipe: Recipe) -> Tagger:
    """Make the student's network, initialised from `origin`."""
    generator = torch.Generator().manual_seed(student.seed)
    tags = tags_of(recipe.labels, recipe.scheme)
    return student_of(student.architecture, origin, tags, student.size, generator)


def _hidden_state_loss(
    recipe: Recipe, student: Student, stage: Stage, tagger: Tagger, tokenizer: Tokenizer
) -> HiddenStateLoss | None:
    """Return the loss on the hidden states of the teacher's first checkpoint, if the stage uses it."""
    if not stage.losses.get("hidden"):
        return None
    folder = _first_checkpoint(recipe)
    if folder is None:
        raise ValueError(
            "losses.hidden needs the teacher's layers, and none of its members is a checkpoint"
        )
    theirs = Tokenizer.from_file(folder / "tokenizer.json", recipe.encoder.words)
    if theirs.to_json() != tokenizer.to_json():
        raise ValueError(
            "losses.hidden compares sub-token by sub-token, and student and teacher have different "
            "tokenizers; leave it out, or leave out the student's own encoder"
        )
    with seeded(torch.Generator().manual_seed(student.seed)):
        return HiddenStateLoss(load_tagger(folder), tagger)


def _made_of(student: Student) -> dict[str, Any]:
    own = student.model_dump(mode="json", include={"architecture", "size", "seed"})
    return own | {"own_encoder": student.encoder and student.encoder.model_dump(mode="json")}


def _dumped(stage: Stage) -> dict[str, Any]:
    return stage.model_dump(mode="json")
