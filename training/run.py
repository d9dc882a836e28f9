"""A whole run: from a recipe to published versions. Each stage is kept and not done twice."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.files import write_whole
from app.manifest import MANIFEST, file_hash, read_manifest
from training.data.check import check
from training.data.corpora import load_held_out, load_train
from training.distill import (
    CHECKPOINT,
    DONE,
    distill,
    finetune,
    prepare_lesson,
    processes,
    ready_members,
    student_folder,
    teacher_folder,
    teacher_members,
    train_alone,
)
from training.evaluation.evaluate import evaluate
from training.export.ensemble import ensemble_manifest, publish_ensemble, staged
from training.export.publish import Product, Say, publish
from training.folders import replaced_folder
from training.loop import best_f1
from training.models import ARCHITECTURES
from training.recipe import Recipe, Student
from training.teacher import member_key


def finetune_stage(recipe: Recipe, say: Say) -> list[Path]:
    """Fine-tune the encoder with each seed, or go on with it; the best epochs' checkpoints.

    Raises:
        ValueError: there is no seed, the data has problems, or a folder holds a training of another
            recipe.
    """
    if not recipe.finetune.seeds:
        raise ValueError(f"{recipe.file}: finetune.seeds is empty; give a seed to fine-tune with")
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
        ValueError: there is no such student or none at all, the teacher is not trained, the data has
            problems, or a folder holds a training of another recipe.
    """
    students = find_students(recipe, names)
    if not students:
        raise ValueError(f"{recipe.file}: has no [[students]] that could learn; add one")
    ready_members(recipe)
    prepare(recipe)
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

    Raises:
        ValueError: there is no such student, a training is not finished, or as `publish`.
    """
    if not processes().is_main_process:
        return []
    products = [_student(recipe, student) for student in find_students(recipe, names)]
    if not products:
        return [publish(_best_teacher(recipe), recipe, models, number, say)]
    beside = recipe.run_folder / "models"
    plain = recipe.model_copy(update={"export": recipe.export.model_copy(update={"fp16": False})})
    for product in _compared(recipe):
        if not _is_published(product, beside / product.name / "1"):
            publish(product, plain, beside, 1, say)
    _publish_teacher(recipe, beside, say)
    return [publish(product, recipe, models, number, say) for product in products]


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
    """Check the data and keep the resolved recipe in the run's folder."""
    if problems := check(recipe).problems:
        raise ValueError(f"the data has problems, see nerve-train check-data: {'; '.join(problems)}")
    if processes().is_main_process:
        recipe.run_folder.mkdir(parents=True, exist_ok=True)
        resolved = json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_whole(recipe.run_folder / "recipe.json", resolved + "\n")
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
    best = max(seeds, key=lambda seed: best_f1(products[seed].folder))
    found = products[best]
    return Product(recipe.name, recipe.description, found.checkpoint, found.folder, found.lineage)


def _student(recipe: Recipe, student: Student) -> Product:
    """A student as it was after the stage that did better on dev."""
    folder = student_folder(recipe, student)
    stages = [folder / "transfer", *([folder / "labelled"] if student.labelled else [])]
    for stage in stages:
        _check_done(stage)
    best = max(stages, key=best_f1)
    teachers = len(teacher_members(recipe))
    made = (
        f"Distilled from an ensemble of {teachers} fine-tuned encoders on the recipe's transfer set"
        if teachers > 1
        else "Distilled from a fine-tuned encoder on the recipe's transfer set"
    )
    if student.labelled:
        then = (
            "which did better on dev"
            if best == stages[-1]
            else "which did no better on dev and is left out"
        )
        made += f", then trained on labelled text, {then}"
    return Product(
        student.name,
        student.description,
        best / CHECKPOINT,
        folder,
        {"student": student.name, **_lineage(recipe, stages, [student.seed], f"{made}.")},
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


def _is_published(product: Product, version: Path) -> bool:
    """Whether a version for comparison is there; one of weights that are no more is removed."""
    if not version.exists():
        return False
    if read_manifest(version).lineage["export"]["weights"] == member_key(product.checkpoint):
        return True
    shutil.rmtree(version)
    return False


def _publish_teacher(recipe: Recipe, beside: Path, say: Say) -> None:
    """The teacher as an ensemble version, where it has several members and all are versions."""
    name = f"{recipe.name}-teacher"
    given = [Path(member).resolve() for member in recipe.teacher.members]
    members = [f"{name}-{seed}/1" for seed in recipe.finetune.seeds]
    members += [f"{folder.parent.name}/{folder.name}" for folder in given]
    if checkpoints := [folder for folder in given if not (folder / MANIFEST).exists()]:
        say(f"{name}: not published, {checkpoints[0]} is a checkpoint")
        return
    if len(members) < 2:
        return
    for folder in given:
        copy = beside / folder.parent.name / folder.name
        if not copy.exists():
            with replaced_folder(copy) as new:
                shutil.copytree(folder, new, dirs_exist_ok=True)
    version = beside / name / "1"
    if version.exists():
        hashes = {member: file_hash(beside / member / MANIFEST) for member in members}
        if read_manifest(version).member_hashes == hashes:
            return
        shutil.rmtree(version)
    said = "The teacher of a run: the mean of its members."
    manifest = ensemble_manifest(name, members, None, "mean", beside, 1, said)
    with staged(manifest, beside) as candidate:
        test = evaluate(candidate, load_held_out(recipe.test, recipe))
    say(f"{name}: average test F1 {test['average_f1']:.2f}, the mean of {', '.join(members)}")
    publish_ensemble(manifest, beside, {"test": test})


def _check_done(folder: Path) -> None:
    if not (folder / DONE).exists():
        raise ValueError(f"{folder}: its training is not finished; nerve-train run goes on with it")


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
