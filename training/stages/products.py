"""This module chooses the trained networks of a run that become versions, with their lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from training.progress import best_f1, read_history
from training.recipe import Recipe, Student
from training.stages.once import DONE
from training.stages.run_folder import CHECKPOINT, student_folder, teacher_folder, teacher_members


@dataclass(frozen=True)
class Product:
    """Describes a trained network that becomes a version.

    Attributes:
        name: the version's model name.
        checkpoint: the network's folder.
        folder: the folder for its exported graphs.
        lineage: the recipe, seeds, data and epochs of its training, for the manifest.
    """

    name: str
    description: str
    checkpoint: Path
    folder: Path
    lineage: Mapping[str, Any] = field(default_factory=dict)


def student_product(recipe: Recipe, student: Student) -> Product:
    """Return a student's checkpoint with the best dev F1, of its transfer and labelled trainings.

    Raises:
        ValueError: one of its trainings is not finished.
    """
    folder = student_folder(recipe, student)
    trainings = [folder / "transfer", *([folder / "labelled"] if student.labelled else [])]
    for training in trainings:
        _check_done(training)
    best = max(trainings, key=best_f1)
    teachers = len(teacher_members(recipe))
    made = (
        f"Distilled from an ensemble of {teachers} fine-tuned encoders on the recipe's transfer set"
        if teachers > 1
        else "Distilled from a fine-tuned encoder on the recipe's transfer set"
    )
    if student.labelled:
        then = (
            "which did better on dev"
            if best == trainings[-1]
            else "which did no better on dev and is left out"
        )
        made += f", then trained on labelled text, {then}"
    return Product(
        student.name,
        student.description,
        best / CHECKPOINT,
        folder,
        {"student": student.name, **_lineage(recipe, trainings, [student.seed], f"{made}.")},
    )


def best_teacher_product(recipe: Recipe) -> Product:
    """Return the fine-tuned network with the best dev F1 of all seeds, under the recipe's name.

    Raises:
        ValueError: the recipe has no seed, or a training is not finished.
    """
    seeds = recipe.finetune.seeds
    if not seeds:
        raise ValueError(f"{recipe.file}: has no finetune.seeds and no students, so nothing to export")
    products = [_teacher_product(recipe, seed) for seed in seeds]
    return replace(max(products, key=lambda product: best_f1(product.folder)), name=recipe.name)


def compared_products(recipe: Recipe) -> list[Product]:
    """Return the networks to compare students with: each teacher, and each student trained alone.

    Raises:
        ValueError: a teacher's training is not finished.
    """
    products = [_teacher_product(recipe, seed) for seed in recipe.finetune.seeds]
    for student in recipe.students:
        folder = student_folder(recipe, student) / "alone"
        if (folder / DONE).exists():
            made = "Trained on labelled text without a teacher, for comparison."
            lineage = _lineage(recipe, [folder], [student.seed], made)
            products.append(Product(f"{student.name}-alone", made, folder / CHECKPOINT, folder, lineage))
    return products


def _teacher_product(recipe: Recipe, seed: int) -> Product:
    folder = teacher_folder(recipe, seed)
    _check_done(folder)
    return Product(
        f"{recipe.name}-teacher-{seed}",
        recipe.description,
        folder / CHECKPOINT,
        folder,
        _lineage(recipe, [folder], [seed], f"Fine-tuned for up to {recipe.finetune.epochs} epochs."),
    )


def _check_done(training: Path) -> None:
    if not (training / DONE).exists():
        raise ValueError(f"{training}: its training is not finished; nerve-train run goes on with it")


def _lineage(recipe: Recipe, trainings: Sequence[Path], seeds: Sequence[int], made: str) -> dict[str, Any]:
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
            training.name: [asdict(epoch) for epoch in read_history(training)] for training in trainings
        },
    }
