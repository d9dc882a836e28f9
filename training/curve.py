"""This module measures a student's F1 by amount of labelled text, trained alone and distilled.

The labelled texts outside a share serve as unlabelled text. The teacher of a share is trained on the
labels of that share only.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.files import write_whole
from app.manifest import read_manifest
from app.versions.loading.loader import load_version
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.data.documents import Document, text_key
from training.data.transfer import TransferSet, build_transfer_set
from training.evaluation.answers import ask
from training.evaluation.significance import Interval, average_interval
from training.progress import Say
from training.recipe import Augmentation, Recipe, Student, Teacher
from training.stages.distill import (
    DistillationData,
    distill,
    distillation_data,
    label_transfer_set,
    train_alone,
)
from training.stages.finetune import finetune_seed
from training.stages.once import claim, processes
from training.stages.products import Product
from training.stages.publish import publish
from training.stages.run_folder import CHECKPOINT, teacher_folder, teacher_members, transfer_made_of
from training.teacher import member_key

SHARES = (0.05, 0.2, 1.0)  # of the labelled texts, by default
CURVE = "learning_curve.json"

UNLABELLED = "labels not used"
"""The origin, in the counts of a transfer set, of training texts outside the share."""

_WHOLE_TEACHER = "distilled-whole-teacher"  # name of a student whose teacher was trained on all labels

_RESAMPLES = 2000  # of the bootstrap, for each interval


@dataclass(frozen=True)
class _Share:
    """Holds a share of the labelled texts and the recipes that train on it.

    Attributes:
        share: the fraction of the labelled texts, in (0, 1].
        recipe: trains the student alone, and the teacher of the share.
        taught: trains the student by distillation.
        labelled: the texts of the share.
        rest: the other texts, without their labels.
    """

    share: float
    recipe: Recipe
    taught: Recipe
    labelled: Sequence[LoadedCorpus]
    rest: Sequence[LoadedCorpus]

    @property
    def texts(self) -> int:
        return sum(len(corpus.documents) for corpus in self.labelled)


def learning_curve(
    recipe: Recipe, student: Student, sizes: Sequence[float], say: Say, whole_teacher: bool = False
) -> Path:
    """Train a student on shares of the labelled texts, with and without a teacher; resumable.

    A teacher is fine-tuned on each share with the first seed. It labels the share, the other training
    texts, raw text, and variations of the share. Every network is exported as fp32 into `<run>/models`
    and measured on the recipe's test files.

    Args:
        sizes: shares of each training corpus, in (0, 1]; a larger share contains a smaller one.
        whole_teacher: distill from the run's teacher, which was trained on all labels, at every share.

    Returns:
        `<run>/learning_curve.json`: for each of `shares` the number of labelled texts (`sizes`) and the
        average F1 in percent of `alone`, `distilled` and `teacher`, with the ends of 95 % intervals
        (`alone_low`, …). `teacher_saw` is `share` or `all`; `teacher` is missing for `all`.

    Raises:
        ValueError: a share is outside (0, 1], the recipe has no test files or no seed, the student has no
            `alone` stage, or a folder holds the results of another recipe or share.
    """
    if processes().num_processes > 1:
        raise ValueError("a learning curve is one process; start it without accelerate launch")
    shares = sorted(set(sizes))
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares {', '.join(map(str, sizes)) or '(none)'}: must be above 0 and at most 1")
    if not recipe.test:
        raise ValueError(f"{recipe.file}: a learning curve is measured on test files; add a [[test]]")
    if student.alone is None:
        raise ValueError(
            f"{recipe.file}: {student.name} has no [students.alone], which is half of a learning curve"
        )
    if not recipe.finetune.seeds and not whole_teacher:
        raise ValueError(f"{recipe.file}: finetune.seeds is empty, and each share's teacher needs one")
    corpora = load_train(recipe)
    parts = [_share(recipe, corpora, share, whole_teacher) for share in shares]
    curve: dict[str, list[Interval]] = {}
    for part in parts:
        say(f"share {part.share:g}: {part.texts} labelled texts")
        for name, checkpoint in _trained(part, student, whole_teacher, say).items():
            version = _published(part, student, name, checkpoint, recipe.run_folder / "models", say)
            found = _measured(version, recipe)
            curve.setdefault("distilled" if name == _WHOLE_TEACHER else name, []).append(found)
            say(f"share {part.share:g}: {name} {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]")
    file = recipe.run_folder / CURVE
    result: dict[str, object] = {
        "student": student.name,
        "teacher_saw": "all" if whole_teacher else "share",
        "shares": shares,
        "sizes": [part.texts for part in parts],
    }
    for name, intervals in curve.items():
        result[name] = [round(one.value, 3) for one in intervals]
        result[f"{name}_low"] = [round(one.low, 3) for one in intervals]
        result[f"{name}_high"] = [round(one.high, 3) for one in intervals]
    write_whole(file, json.dumps(result, indent=1) + "\n")
    return file


def subset(documents: Sequence[Document], share: float, seed: str) -> tuple[Document, ...]:
    """Draw about this share of the documents, as whole articles, in the documents' order.

    With one seed, a larger share contains a smaller one.
    """
    units: dict[str, list[int]] = {}
    for number, document in enumerate(documents):
        units.setdefault(document.group or f"\0{number}", []).append(number)
    names = list(units)
    random.Random(seed).shuffle(names)
    wanted = max(1, round(share * len(documents)))
    taken: list[int] = []
    for name in names:
        if len(taken) >= wanted:
            break
        taken += units[name]
    return tuple(documents[number] for number in sorted(taken))


def _share(recipe: Recipe, corpora: Sequence[LoadedCorpus], share: float, whole_teacher: bool) -> _Share:
    """Split each corpus, and make the share's recipes; share 1 takes over the run's trainings if it can."""
    labelled, rest = [], []
    for corpus in corpora:
        taken = subset(corpus.documents, share, f"{recipe.transfer.seed}/{corpus.name}")
        keys = {document.key for document in taken}  # unique: loading drops duplicates
        left = (replace(one, spans=()) for one in corpus.documents if one.key not in keys)
        labelled.append(replace(corpus, documents=taken))
        rest.append(replace(corpus, documents=tuple(left)))
    # Publish fp32 only, so that the loss of a precision does not blur the curve.
    recipe = recipe.model_copy(
        update={"export": recipe.export.model_copy(update={"precision": "fp32", "fp16": False})}
    )
    folder = recipe.run_folder / "learning_curve" / f"{share:g}"
    first = recipe.finetune.seeds[:1]
    alone = recipe if share == 1 else _moved(recipe, folder, first, ())
    whole = teacher_members(recipe)
    members = whole if whole_teacher else [teacher_folder(alone, seed) / CHECKPOINT for seed in first]
    if share == 1 and members == whole:
        taught = recipe
    else:
        taught = _moved(recipe, folder / _WHOLE_TEACHER if whole_teacher else folder, (), members)
    return _Share(share, alone, taught, labelled, rest)


def _moved(recipe: Recipe, folder: Path, seeds: Sequence[int], members: Sequence[Path]) -> Recipe:
    """Return a recipe with another run folder and another teacher."""
    changes = {
        "output": str(folder),
        "finetune": recipe.finetune.model_copy(update={"seeds": tuple(seeds)}),
        "teacher": Teacher(members=tuple(map(str, members))),
    }
    return recipe.model_copy(update=changes)


def _trained(part: _Share, student: Student, whole_teacher: bool, say: Say) -> dict[str, Path]:
    """Train the networks of a share, or resume; return each checkpoint by its name in the curve."""
    if part.share < 1:
        texts = "\0".join(document.text for corpus in part.labelled for document in corpus.documents)
        made_of = {"share": part.share, "texts": hashlib.sha256(texts.encode()).hexdigest()}
        claim(part.recipe.run_folder, made_of)
    trained = {"alone": train_alone(part.recipe, student, part.labelled)}
    if not whole_teacher:
        trained["teacher"] = finetune_seed(part.recipe, part.recipe.finetune.seeds[0], part.labelled)
    data = distillation_data(part.taught, say) if part.share == 1 else _share_data(part, say)
    trained[_WHOLE_TEACHER if whole_teacher else "distilled"] = distill(part.taught, student, data)
    return trained


def _share_data(part: _Share, say: Say) -> DistillationData:
    """Return distillation data that holds the labels of the share only."""
    recipe = part.taught
    held_out = load_held_out((*recipe.dev, *recipe.test), recipe)
    made_of = recipe.model_dump(mode="json", include={"dev", "test"})
    made_of |= {"transfer": transfer_made_of(recipe.transfer)}
    return label_transfer_set(
        recipe,
        part.labelled,
        made_of,
        lambda: share_transfer_set(recipe, part.labelled, part.rest, held_out),
        say,
    )


def share_transfer_set(
    recipe: Recipe,
    labelled: Sequence[LoadedCorpus],
    rest: Sequence[LoadedCorpus],
    held_out: Sequence[LoadedCorpus],
) -> TransferSet:
    """Build a transfer set from labelled texts and other training texts, whose labels are not used.

    It holds all of both, and variations of the labelled texts only. `transfer.words` limits the total.
    """
    plain = recipe.transfer.model_copy(update={"texts": (), "augment": Augmentation(), "words": 0})
    unlabelled = build_transfer_set(recipe.model_copy(update={"transfer": plain}), rest, held_out)
    words = recipe.transfer.words and max(1, recipe.transfer.words - unlabelled.words)
    limited = recipe.transfer.model_copy(update={"words": words})
    found = build_transfer_set(recipe.model_copy(update={"transfer": limited}), labelled, held_out)
    known = {text_key(text) for text in found.texts}
    more = tuple(text for text in unlabelled.texts if text_key(text) not in known)
    return TransferSet((*found.texts, *more), found.counts | {UNLABELLED: len(more)}, found.dropped)


def _published(part: _Share, student: Student, name: str, checkpoint: Path, models: Path, say: Say) -> Path:
    """Publish a version of a checkpoint, unless it exists; return its folder."""
    version = models / f"{student.name}-curve-{part.share:g}-{name}" / "1"
    made = member_key(checkpoint)
    if version.exists():
        if read_manifest(version).lineage.get("checkpoint") != made:
            raise ValueError(f"{version}: was made from another training; delete it, it is made again")
        return version
    description = f"For a learning curve: {name}, with {part.texts} labelled texts."
    lineage = {"made": description, "checkpoint": made, "share": part.share}
    product = Product(version.parent.name, description, checkpoint, checkpoint.parent, lineage)
    return publish(product, part.recipe, models, 1, say)


def _measured(version: Path, recipe: Recipe) -> Interval:
    """Measure the average F1 on the test files, through the serving engine."""
    loaded = load_version(version)
    try:
        answers = [ask(loaded.model, corpus) for corpus in load_held_out(recipe.test, recipe)]
    finally:
        loaded.model.close()
    return average_interval(answers, recipe.labels, resamples=_RESAMPLES)
