"""The folder of a run: where it keeps what, who teaches and learns in it, and what stages depend on."""

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
"""What a training leaves in its folder: the best epoch's network and its tokenizer."""


def teacher_folder(recipe: Recipe, seed: int) -> Path:
    """Where a seed's fine-tuning lies."""
    return recipe.run_folder / "teacher" / f"seed-{seed}"


def student_folder(recipe: Recipe, student: Student) -> Path:
    """Where a student's trainings lie, `transfer`, `labelled` and `alone`."""
    return recipe.run_folder / "students" / student.name


def teacher_members(recipe: Recipe) -> list[Path]:
    """The folders of the teacher's members."""
    tuned = [teacher_folder(recipe, seed) / CHECKPOINT for seed in recipe.finetune.seeds]
    return [*tuned, *map(Path, recipe.teacher.members)]


def ready_members(recipe: Recipe) -> list[Path]:
    """The folders of the teacher's members, each of which is there.

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
    """Check that those members are there that the recipe does not train itself.

    Raises:
        ValueError: one is not.
    """
    for member in recipe.teacher.members:
        if not Path(member).is_dir():
            raise ValueError(
                f"{recipe.file}: teacher.members: {member} is no folder here; name a checkpoint's or a "
                "version's, which nerve-train import makes of a checkpoint on the hub"
            )


def find_students(recipe: Recipe, names: Sequence[str]) -> list[Student]:
    """The students of these names; all where none is named.

    Raises:
        ValueError: the recipe has no such student, or one is of an architecture that there is not.
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
    """What every training depends on, for `once`."""
    return recipe.model_dump(mode="json", include={"labels", "scheme", "encoder", "train", "dev"})


def transfer_made_of(transfer: Transfer) -> dict[str, Any]:
    """What decides about the texts of a transfer set, for `once`."""
    return transfer.model_dump(mode="json", exclude={"licence", "source"})


def weights_hash(folder: Path) -> str:
    """A short hash of a checkpoint's or version's weights.

    Raises:
        ValueError: the folder holds none.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.onnx"))
    if not files:
        raise ValueError(f"{folder}: holds no weights; train it first, or name another folder")
    return file_hash(files[0])[:16]
