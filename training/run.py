"""A whole run: from a recipe to published versions. Each stage is kept and not done twice."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.manifest import MANIFEST
from training.data.check import check
from training.data.corpora import load_train
from training.distill import (
    CHECKPOINT,
    DONE,
    distill,
    finetune,
    prepare_lesson,
    processes,
    student_folder,
    teacher_folder,
    teacher_members,
    train_alone,
)
from training.export.ensemble import package_ensemble
from training.export.publish import Product, Say, publish
from training.folders import replaced_file, replaced_folder
from training.recipe import Recipe, Student


def finetune_stage(recipe: Recipe, say: Say) -> list[Path]:
    """Fine-tune the encoder with each seed, or go on with it; the best epochs' checkpoints.

    Raises:
        ValueError: the data has problems, or a folder holds a training of another recipe.
    """
    prepare(recipe)
    corpora = load_train(recipe)
    for corpus in corpora:
        say(
            f"{corpus.name}: {len(corpus.documents)} texts "
            f"({corpus.duplicates} duplicates and {corpus.leaks} leaks dropped)"
        )
    return [finetune(recipe, seed, corpora) for seed in recipe.finetune.seeds]


def distill_stage(recipe: Recipe, names: Sequence[str], say: Say) -> list[Path]:
    """Train the students, each with the teacher and, where the recipe says so, alone.

    Args:
        names: of the students; all by default.

    Raises:
        ValueError: there is no such student, the teacher is not trained, or as `finetune_stage`.
    """
    prepare(recipe)
    students = find_students(recipe, names)
    for member in teacher_members(recipe):
        if not member.exists():
            raise ValueError(f"teacher {member}: not there; nerve-train finetune {recipe.file} trains it")
    lesson = prepare_lesson(recipe, say)
    checkpoints = []
    for student in students:
        say(f"{student.name}: {student.architecture}")
        checkpoints.append(distill(recipe, student, lesson))
        if student.alone:
            train_alone(recipe, student, lesson.corpora)
    return checkpoints


def publish_stage(
    recipe: Recipe, models: Path, number: int | None, names: Sequence[str], say: Say
) -> list[Path]:
    """Publish each student, or the best fine-tuned network of a recipe without students.

    What students are compared with is published into the run's own `models` folder: each teacher, their
    ensemble, and each student that was trained alone.
    """
    if not processes().is_main_process:
        return []
    if not recipe.students:
        return [publish(_best_teacher(recipe), recipe, models, number, say)]
    beside = recipe.run_folder / "models"
    for product in _compared(recipe):
        if not (beside / product.name / "1").exists():
            publish(product, recipe, beside, 1, say)
    _publish_teacher(recipe, beside, say)
    return [
        publish(_student(recipe, student), recipe, models, number, say)
        for student in find_students(recipe, names)
    ]


def find_students(recipe: Recipe, names: Sequence[str]) -> list[Student]:
    """The students of these names; all where none is named.

    Raises:
        ValueError: the recipe has no such student.
    """
    known = {student.name: student for student in recipe.students}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"{recipe.file}: no student {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    return [known[name] for name in names or known]


def prepare(recipe: Recipe) -> None:
    """Check the data and keep the resolved recipe in the run's folder."""
    if problems := check(recipe).problems:
        raise ValueError(f"the data has problems, see nerve-train check-data: {'; '.join(problems)}")
    if processes().is_main_process:
        recipe.run_folder.mkdir(parents=True, exist_ok=True)
        resolved = json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False)
        replaced_file(recipe.run_folder / "recipe.json", resolved + "\n")
    processes().wait_for_everyone()


def _teacher(recipe: Recipe, seed: int) -> Product:
    folder = teacher_folder(recipe, seed)
    _check_done(folder)
    return Product(
        f"{recipe.name}-teacher-{seed}",
        recipe.description,
        folder / CHECKPOINT,
        folder,
        _lineage(recipe, [folder], [seed], f"Fine-tuned for up to {recipe.finetune.epochs} epochs."),
    )


def _best_teacher(recipe: Recipe) -> Product:
    """The fine-tuned network of the seed that did best on dev, under the recipe's own name."""
    seeds = recipe.finetune.seeds
    if not seeds:
        raise ValueError(f"{recipe.file}: has no finetune.seeds and no students, so nothing to export")
    products = {seed: _teacher(recipe, seed) for seed in seeds}
    best = max(seeds, key=lambda seed: _dev_f1(products[seed].folder))
    found = products[best]
    return Product(recipe.name, recipe.description, found.checkpoint, found.folder, found.lineage)


def _student(recipe: Recipe, student: Student) -> Product:
    folder = student_folder(recipe, student)
    stages = [folder / "transfer", *([folder / "labelled"] if student.labelled else [])]
    for stage in stages:
        _check_done(stage)
    teachers = len(teacher_members(recipe))
    made = (
        f"Distilled from an ensemble of {teachers} fine-tuned encoders"
        if teachers > 1
        else "Distilled from a fine-tuned encoder"
    )
    made += " on the recipe's transfer set" + (", then on labelled text." if student.labelled else ".")
    return Product(
        student.name,
        student.description,
        stages[-1] / CHECKPOINT,
        folder,
        {"student": student.name, **_lineage(recipe, stages, [student.seed], made)},
    )


def _compared(recipe: Recipe) -> list[Product]:
    products = [_teacher(recipe, seed) for seed in recipe.finetune.seeds]
    for student in recipe.students:
        folder = student_folder(recipe, student) / "alone"
        if (folder / DONE).exists():
            made = "Trained on labelled text without a teacher, for comparison."
            lineage = _lineage(recipe, [folder], [student.seed], made)
            products.append(Product(f"{student.name}-alone", made, folder / CHECKPOINT, folder, lineage))
    return products


def _publish_teacher(recipe: Recipe, beside: Path, say: Say) -> None:
    """The teacher as an ensemble version, where it has several members and all are versions."""
    name = f"{recipe.name}-teacher"
    members = [f"{name}-{seed}/1" for seed in recipe.finetune.seeds]
    for member in map(Path, recipe.teacher.members):
        if not (member / MANIFEST).exists():
            say(f"{name}: not published, {member} is a checkpoint")
            return
        copy = beside / member.resolve().parent.name / member.resolve().name
        if not copy.exists():
            with replaced_folder(copy) as new:
                shutil.copytree(member, new, dirs_exist_ok=True)
        members.append(f"{copy.parent.name}/{copy.name}")
    if len(members) > 1 and not (beside / name / "1").exists():
        say(f"{name}: the mean of {', '.join(members)}")
        package_ensemble(
            name,
            members,
            None,
            "mean",
            beside,
            description="The teacher of a run: the mean of its members.",
        )


def _check_done(folder: Path) -> None:
    if not (folder / DONE).exists():
        raise ValueError(f"{folder}: its training is not finished; nerve-train run goes on with it")


def _dev_f1(folder: Path) -> float:
    history = json.loads((folder / "state/history.json").read_text(encoding="utf-8"))
    return max(float(epoch["average"]) for epoch in history)


def _lineage(recipe: Recipe, stages: Sequence[Path], seeds: Sequence[int], made: str) -> dict[str, Any]:
    return {
        "made": made,
        "recipe": recipe.model_dump(mode="json", exclude={"data_root", "output"}),
        "recipe_file": recipe.file,
        "seeds": list(seeds),
        "training_data": [
            {"name": corpus.name, "licence": corpus.licence, "source": corpus.source}
            for corpus in recipe.train
        ],
        "epochs": {
            stage.name: json.loads((stage / "state/history.json").read_text(encoding="utf-8"))
            for stage in stages
        },
    }
