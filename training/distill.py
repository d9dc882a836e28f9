"""Distillation: a student learns what its teacher says of the transfer set, then from labelled text.

It changes the data and the losses, not the loop.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from app.engine.text.tokenizer import Tokenizer
from app.engine.text.words import Ints, split_words
from app.files import write_whole
from app.labels import tags_of
from app.manifest import file_hash
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.data.encode import NO_TARGET, encode, encode_raw
from training.data.transfer import TransferSet, build_transfer_set
from training.loop import Task, Watch, train
from training.losses import Guide
from training.models import load_tagger, student_of
from training.models.initialisation import seeded
from training.models.tagger import Tagger
from training.models.transformer import TransformerTagger, load_tokenizer
from training.recipe import Encoder, Recipe, Stage, Student, Transfer
from training.teacher import Say, Targets, label, member_key

DONE = "done"
"""Marks a training that went to its end."""

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Lesson:
    """What every student of a run learns from."""

    corpora: Sequence[LoadedCorpus]
    dev: Sequence[LoadedCorpus]
    transfer: TransferSet
    targets: Targets


def processes() -> PartialState:
    """The processes that train together, as they were launched; on the CPU where there is no GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def teacher_folder(recipe: Recipe, seed: int) -> Path:
    return recipe.run_folder / "teacher" / f"seed-{seed}"


def student_folder(recipe: Recipe, student: Student) -> Path:
    return recipe.run_folder / "students" / student.name


def teacher_members(recipe: Recipe) -> list[Path]:
    """The folders of the teacher's members."""
    tuned = [teacher_folder(recipe, seed) / CHECKPOINT for seed in recipe.finetune.seeds]
    return [*tuned, *map(Path, recipe.teacher.members)]


def ready_members(recipe: Recipe) -> list[Path]:
    """As `teacher_members`.

    Raises:
        ValueError: one is not there; the message says how to get it.
    """
    check_given_members(recipe)
    members = teacher_members(recipe)
    for member in members:
        if not member.exists():
            raise ValueError(f"teacher {member}: not there; nerve-train finetune {recipe.file} trains it")
    return members


def check_given_members(recipe: Recipe) -> None:
    """See to it that those members are there that the recipe does not train itself.

    Raises:
        ValueError: one is not.
    """
    for member in recipe.teacher.members:
        if not Path(member).is_dir():
            raise ValueError(
                f"{recipe.file}: teacher.members: {member} is no folder here; name a checkpoint's or a "
                "version's, which nerve-train import makes of a checkpoint on the hub"
            )


def finetune(
    recipe: Recipe, seed: int, corpora: Sequence[LoadedCorpus], watch: Watch | None = None
) -> Path:
    """Fine-tune the recipe's encoder, or go on with it; the best epoch's checkpoint."""
    folder = teacher_folder(recipe, seed)
    stage = recipe.finetune
    claim(folder, _data(recipe) | {"seed": seed, "stage": stage.model_dump(mode="json", exclude={"seeds"})})
    if not (folder / DONE).exists():
        tokenizer, tagger = pretrained(recipe.encoder, recipe, seed)
        task = Task(_labelled(recipe, corpora, tokenizer), tokenizer, load_held_out(recipe.dev, recipe))
        train(tagger, task, stage, seed, recipe, folder, watch)
        _finish(folder)
    return folder / CHECKPOINT


def prepare_lesson(recipe: Recipe, say: Say) -> Lesson:
    """The transfer set, built once and labelled once by each member of the teacher."""
    corpora = load_train(recipe)
    held_out = load_held_out((*recipe.dev, *recipe.test), recipe)
    folder = recipe.run_folder / "transfer"
    with processes().main_process_first():  # the others find what it made
        held_out_files = recipe.model_dump(mode="json", include={"test"})
        claim(folder, _data(recipe) | held_out_files | transfer_made_of(recipe.transfer))
        try:
            transfer = TransferSet.load(folder / "set")
        except FileNotFoundError:
            transfer = build_transfer_set(recipe, corpora, held_out)
            transfer.save(folder / "set")
        say(f"transfer set: {len(transfer.texts)} texts of {transfer.words} words, {transfer.counts}")
        targets = label(
            teacher_members(recipe),
            transfer.texts,
            tags_of(recipe.labels, recipe.scheme),
            recipe,
            recipe.run_folder / "answers",
            say,
        )
    return Lesson(corpora, held_out[: len(recipe.dev)], transfer, targets)


def distill(recipe: Recipe, student: Student, lesson: Lesson, watch: Watch | None = None) -> Path:
    """Both stages of a student, or what is left of them; its last checkpoint."""
    folder = student_folder(recipe, student)
    first, second = folder / "transfer", folder / "labelled"
    teacher = {"teacher": [member_key(folder)[:16] for folder in teacher_members(recipe)]}
    made_of = _data(recipe) | _made_of(student) | teacher
    claim(first, made_of | {"stage": _dumped(student.transfer), "texts": lesson.transfer.key})
    if not (first / DONE).exists():
        tokenizer, origin = _origin(recipe, student)
        tagger = _made(student, origin, recipe)
        rows = [lesson.targets.of_text(number) for number in range(len(lesson.transfer.texts))]
        task = Task(
            encode_raw(lesson.transfer.texts, tokenizer, rows),
            tokenizer,
            lesson.dev,
            lesson.targets,
            _guide(recipe, student, student.transfer, tagger, tokenizer),
        )
        train(tagger, task, student.transfer, student.seed, recipe, first, watch)
        _finish(first)
    if student.labelled is None:
        return first / CHECKPOINT
    came_from = {"stage": _dumped(student.labelled), "from": file_hash_of(first / CHECKPOINT)}
    claim(second, _data(recipe) | came_from)
    if not (second / DONE).exists():
        tagger = load_tagger(first / CHECKPOINT)
        tokenizer = Tokenizer.from_file(first / CHECKPOINT / "tokenizer.json", recipe.encoder.words)
        task = Task(
            _labelled(recipe, lesson.corpora, tokenizer, lesson),
            tokenizer,
            lesson.dev,
            lesson.targets,
            _guide(recipe, student, student.labelled, tagger, tokenizer),
        )
        train(tagger, task, student.labelled, student.seed, recipe, second, watch)
        _finish(second)
    return second / CHECKPOINT


def train_alone(recipe: Recipe, student: Student, corpora: Sequence[LoadedCorpus]) -> Path:
    """The student's network trained on labelled text only, from the pretrained encoder."""
    assert student.alone is not None
    folder = student_folder(recipe, student) / "alone"
    claim(folder, _data(recipe) | _made_of(student) | {"stage": _dumped(student.alone)})
    if not (folder / DONE).exists():
        tokenizer, origin = pretrained(student.encoder or recipe.encoder, recipe, student.seed)
        tagger = _made(student, origin, recipe)
        dev = load_held_out(recipe.dev, recipe)
        task = Task(_labelled(recipe, corpora, tokenizer), tokenizer, dev)
        train(tagger, task, student.alone, student.seed, recipe, folder)
        _finish(folder)
    return folder / CHECKPOINT


def pretrained(encoder: Encoder, recipe: Recipe, seed: int) -> tuple[Tokenizer, TransformerTagger]:
    """A pretrained encoder with a fresh classification layer, and its tokenizer."""
    tagger = TransformerTagger.from_pretrained(
        encoder.path,
        tags_of(recipe.labels, recipe.scheme),
        encoder.word_shapes,
        encoder.dropout,
        torch.Generator().manual_seed(seed),
    )
    return load_tokenizer(encoder.path, encoder.words, encoder.spaced_marks), tagger


def claim(folder: Path, made_of: dict[str, Any]) -> None:
    """Write down what a stage's folder is made of.

    Raises:
        ValueError: it holds a training that was made of something else.
    """
    file = folder / "made_of.json"
    if not file.exists() or list(folder.iterdir()) == [file]:  # nothing was made of it yet
        if processes().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(made_of, indent=1, ensure_ascii=False) + "\n")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(made_of))
    if changed := sorted(k for k in {*before, *wanted} if before.get(k) != wanted.get(k)):
        raise ValueError(
            f"{folder}: was made with other {', '.join(changed)} (see made_of.json); delete it, or keep "
            "both with --set output=runs/another"
        )


def transfer_made_of(transfer: Transfer) -> dict[str, Any]:
    """What of a transfer set's table decides about its texts, for `claim`."""
    return transfer.model_dump(mode="json", exclude={"licence", "source"})


def file_hash_of(folder: Path) -> str:
    """A short hash of a checkpoint's or version's weights."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.onnx"))
    if not files:
        raise ValueError(f"{folder}: holds no weights; train it first, or name another folder")
    return file_hash(files[0])[:16]


def _labelled(
    recipe: Recipe, corpora: Sequence[LoadedCorpus], tokenizer: Tokenizer, lesson: Lesson | None = None
) -> list[Any]:
    """Examples of the training corpora; with a lesson, each points at the teacher's answers too."""
    numbers = {text: number for number, text in enumerate(lesson.transfer.texts)} if lesson else {}
    examples = []
    for corpus in corpora:
        rows: list[Ints] | None = None
        if lesson:
            rows = [_rows(document.text, numbers, lesson, tokenizer) for document in corpus.documents]
        encoded = encode(corpus.documents, tokenizer, recipe.scheme, recipe.labels, rows)
        examples += encoded * corpus.repeat
    return examples


def _rows(text: str, numbers: dict[str, int], lesson: Lesson, tokenizer: Tokenizer) -> Ints:
    if text in numbers:
        return lesson.targets.of_text(numbers[text])
    return np.full(len(split_words(text, tokenizer.rule)), NO_TARGET)


def _origin(recipe: Recipe, student: Student) -> tuple[Tokenizer, Tagger]:
    """What a student starts from: its own encoder, the teacher's first checkpoint, or the recipe's."""
    if student.encoder is None:
        for folder in teacher_members(recipe):
            if list(folder.glob("*.safetensors")):
                tokenizer = Tokenizer.from_file(folder / "tokenizer.json", recipe.encoder.words)
                return tokenizer, load_tagger(folder)
    return pretrained(student.encoder or recipe.encoder, recipe, student.seed)


def _made(student: Student, origin: Tagger, recipe: Recipe) -> Tagger:
    generator = torch.Generator().manual_seed(student.seed)
    tags = tags_of(recipe.labels, recipe.scheme)
    return student_of(student.architecture, origin, tags, student.size, generator)


def _guide(
    recipe: Recipe, student: Student, stage: Stage, tagger: Tagger, tokenizer: Tokenizer
) -> Guide | None:
    """The hidden-state loss's other side, where a stage wants one: the teacher's first checkpoint."""
    if not stage.losses.get("hidden"):
        return None
    folder = next((f for f in teacher_members(recipe) if list(f.glob("*.safetensors"))), None)
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
        return Guide(load_tagger(folder), tagger)


def _data(recipe: Recipe) -> dict[str, Any]:
    """What every training depends on."""
    return recipe.model_dump(mode="json", include={"labels", "scheme", "encoder", "train", "dev"})


def _made_of(student: Student) -> dict[str, Any]:
    own = student.model_dump(mode="json", include={"architecture", "size", "seed"})
    return own | {"own_encoder": student.encoder and student.encoder.model_dump(mode="json")}


def _dumped(stage: Stage) -> dict[str, Any]:
    return stage.model_dump(mode="json")


def _finish(folder: Path) -> None:
    if processes().is_main_process:
        write_whole(folder / DONE, "")
    processes().wait_for_everyone()
