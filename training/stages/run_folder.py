"""This module knows the folder of a run: its layout, the teacher's members, and the stages' inputs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.files import write_whole
from app.manifest import file_hash
from training.data.check import check
from training.models import ARCHITECTURES
from training.recipe import Recipe, Student, Transfer
from training.stages.once import processes

CHECKPOINT = "checkpoint"
"""The folder, inside a training's folder, of the best epoch's network and its tokenizer."""


def teacher_folder(recipe: Recipe, seed: int) -> Path:
    """Return the folder of a seed's fine-tuning."""
    return recipe.run_folder / "teacher" / f"seed-{seed}"


def student_folder(recipe: Recipe, student: Student) -> Path:
    """Return the folder of a student's trainings: `transfer`, `labelled` and `alone`."""
    return recipe.run_folder / "students" / student.name


def teacher_members(recipe: Recipe) -> list[Path]:
    """Return the folders of the teacher's members: fine-tuned seeds, then `teacher.members`."""
    tuned = [teacher_folder(recipe, seed) / CHECKPOINT for seed in recipe.finetune.seeds]
    return [*tuned, *map(Path, recipe.teacher.members)]


def ready_members(recipe: Recipe) -> list[Path]:
    """Return the folders of the teacher's members, after a check that all exist.

    Raises:
        ValueError: a folder is missing; the message says how to get it.
    """
    check_given_members(recipe)
    members = teacher_members(recipe)
    for member in members:
        if not member.exists():
            raise ValueError(f"teacher {member}: not there; nerve-train finetune {recipe.file} trains it")
    return members


def check_given_members(recipe: Recipe) -> None:
    """Raise ValueError if a folder of the recipe's `teacher.members` is missing."""
    for member in recipe.teacher.members:
        if not Path(member).is_dir():
            raise ValueError(
                f"{recipe.file}: teacher.members: {member} is no folder here; name a checkpoint's or a "
                "version's, which nerve-train import makes of a checkpoint on the hub"
            )


def find_students(recipe: Recipe, names: Sequence[str]) -> list[Student]:
    """Return the students of these names; all students if there are no names.

    Raises:
        ValueError: a name or a student's architecture is unknown.
    """
    known = {student.name: student for student in recipe.students}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{recipe.file}: no student {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    chosen = [known[name] for name in names or known]
    for student in chosen:
        if student.architecture not in ARCHITECTURES:
            raise ValueError(
                f"{recipe.file}: student {student.name}: architecture {student.architecture!r} is unknown; "
                f"choose among {', '.join(ARCHITECTURES)}"
            )
    return chosen


def prepare(recipe: Recipe) -> None:
    """Check the data and keep the resolved recipe in the run's folder.

    Raises:
        ValueError: the data has problems.
    """
    if problems := check(recipe).problems:
        raise ValueError(f"the data has problems, see nerve-train check-data: {'; '.join(problems)}")
    if processes().is_main_process:
        recipe.run_folder.mkdir(parents=True, exist_ok=True)
        resolved = json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_whole(recipe.run_folder / "recipe.json", resolved + "\n")
    processes().wait_for_everyone()


def data_made_of(recipe: Recipe) -> dict[str, Any]:
    """Return the inputs of every training, for the fingerprint of `once`."""
    return recipe.model_dump(mode="json", include={"labels", "scheme", "encoder", "train", "dev"})


def transfer_made_of(transfer: Transfer) -> dict[str, Any]:
    """Return the inputs that decide the texts of a transfer set, for the fingerprint of `once`."""
    return transfer.model_dump(mode="json", exclude={"licence", "source"})


def weights_hash(folder: Path) -> str:
    """Return a short hash of the weights of a checkpoint or version.

    Raises:
        ValueError: the folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.onnx"))
    if not files:
        raise ValueError(f"{folder}: holds no weights; train it first, or name another folder")
    return file_hash(files[0])[:16]
