"""The report: versions side by side on a recipe's test files, as a page, as tables and as numbers.

`report.html` needs nothing but itself; `report.md` holds its tables, for a model card; `report.json`
holds every number, so that two reports can be compared by a program. Only the page quotes the corpora.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.files import write_whole
from app.manifest import MANIFEST, read_manifest
from app.versions.loading.loader import load_version
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.evaluation.answers import Answers, ask
from training.evaluation.benchmark import machine, measure_together
from training.evaluation.calibration import reliability
from training.evaluation.errors import ErrorReport, analyse, confusion, seen_mentions
from training.evaluation.page import UNCHANGED, Numbers, as_markdown, as_page
from training.evaluation.robustness import PERTURBATIONS, perturbed
from training.evaluation.significance import (
    average_difference,
    average_interval,
    f1_interval,
    paired_difference,
)
from training.evaluation.spans import score
from training.evaluation.tokens import token_table
from training.recipe import Recipe

_ASIDE = ("search", "learning_curve")
"""Folders of a run whose trainings are shown otherwise."""

Say = Callable[[str], None]


def report(
    versions: Sequence[Path],
    recipe: Recipe,
    output: Path,
    *,
    resamples: int = 10_000,
    robustness: bool = True,
    torch: bool = False,
    runs: Sequence[Path] = (),
    command: str = "",
    say: Say = print,
) -> Path:
    """Measure versions on the recipe's test files and write the page, and beside it `.md` and `.json`.

    Args:
        versions: folders of versions or of runs, in any mixture; the first version is what the others
            are compared with. A run gives its `history.json` files, and `learning_curve.json`:
            `{"sizes": […], "alone": […], "distilled": […]}`, with `alone_low`, `alone_high` and the
            same of `distilled` where known; sizes in texts, the rest in percent.
        output: the page, such as `reports/report.html`.
        resamples: draws of each bootstrap.
        robustness: whether to ask every version about every perturbation too, which takes longest.
        torch: whether to time the recipe's encoder in PyTorch too.
        runs: more run folders.
        command: what reprints the report; made from the arguments where it is not given.

    Returns:
        `output`.

    Raises:
        ValueError: a folder is neither a version nor a run, a version has other labels than the
            recipe, the recipe has no test files, or a run's file cannot be read.
        FileNotFoundError: a corpus is missing. VersionRefused: a version fails its checks.
    """
    folders, run_folders = sort_folders([*versions, *runs])
    numbers: Numbers = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command or _command([*versions, *runs], recipe, output, robustness),
        "recipe": {"name": recipe.name, "file": recipe.file},
        "labels": list(recipe.labels),
        "resamples": resamples,
        "machine": machine(),
        "corpora": [],
        "versions": [],
        "runs": [_run(folder) for folder in run_folders],
    }
    examples: dict[str, dict[str, ErrorReport]] = {}
    if folders:
        names = _names(folders, recipe)
        test = load_held_out(recipe.test, recipe)
        if not test:
            raise ValueError(f"{recipe.file or recipe.name}: no [[test]] corpora to report on; name one")
        numbers["corpora"] = [
            {
                "name": corpus.name,
                "texts": len(corpus.documents),
                "entities": sum(len(document.spans) for document in corpus.documents),
            }
            for corpus in test
        ]
        seen = seen_mentions(load_train(recipe))
        disturbed = {
            name: [perturbed(corpus, name) for corpus in test]
            for name in (PERTURBATIONS if robustness else ())
        }
        first: list[Answers] = []
        for folder, name in zip(folders, names, strict=True):
            say(f"{name}: asking it about {len(test)} corpora")
            answers, scores = _ask(folder, test, disturbed, recipe.labels)
            found = _version(name, answers, scores, recipe.labels, resamples)
            if first:
                found["difference"] = _differences(first, answers, recipe.labels, resamples)
            first = first or answers
            errors = {one.corpus: analyse(one, recipe.labels, seen) for one in answers}
            for corpus, of_corpus in errors.items():
                found["corpora"][corpus]["errors"] = _counts(of_corpus)
            examples[name] = errors
            numbers["versions"].append(_described(folder) | found)
        say("measuring speed")
        speeds = measure_together(folders, names=names, teacher=recipe if torch else None)
        for found, speed in zip(numbers["versions"], speeds, strict=False):
            found["speed"] = asdict(speed)
        numbers["torch"] = asdict(speeds[-1]) if torch else None
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output.with_suffix(".json"), json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    write_whole(output.with_suffix(".md"), as_markdown(numbers))
    write_whole(output, as_page(numbers, examples))
    return output


def sort_folders(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Version folders (they hold `manifest.json`) and run folders (`recipe.json`), each in its order.

    Raises:
        ValueError: one of them is neither, or there is none.
    """
    if not folders:
        raise ValueError("nothing to report on; name a version, such as models/ner-en/1, or a run's folder")
    versions, runs = [], []
    for folder in folders:
        if (folder / MANIFEST).is_file():
            versions.append(folder.resolve())
        elif (folder / "recipe.json").is_file():
            runs.append(folder.resolve())
        else:
            raise ValueError(
                f"{folder}: neither a version (it would hold {MANIFEST}) nor a run (recipe.json); "
                "name a folder such as models/ner-en/1 or runs/ner-en"
            )
    return versions, runs


def _names(folders: Sequence[Path], recipe: Recipe) -> list[str]:
    """What to call the versions: as much of their paths, from the end, as tells them apart."""
    for folder in folders:
        labels = read_manifest(folder).labels
        if set(labels) != set(recipe.labels):
            raise ValueError(
                f"{folder}: its labels are {', '.join(labels)}, the recipe's "
                f"{', '.join(recipe.labels)}; report it with a recipe of its labels"
            )
    if len(set(folders)) < len(folders):
        raise ValueError(f"a version is named twice in {', '.join(map(str, folders))}; name each once")
    names, parts = [""], 1
    while len(set(names)) < len(folders):
        parts += 1
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
    return names


def _ask(
    folder: Path,
    test: Sequence[LoadedCorpus],
    disturbed: Mapping[str, Sequence[LoadedCorpus]],
    labels: Sequence[str],
) -> tuple[list[Answers], Numbers]:
    """A version's answers, and its F1 after each perturbation."""
    loaded = load_version(folder)
    try:
        answers = [ask(loaded.model, corpus) for corpus in test]
        scores = {UNCHANGED: _f1s(answers, labels)} if disturbed else {}
        for name, corpora in disturbed.items():
            scores[name] = _f1s([ask(loaded.model, corpus) for corpus in corpora], labels)
    finally:
        loaded.model.close()
    return answers, scores


def _f1s(answers: Sequence[Answers], labels: Sequence[str]) -> Numbers:
    corpora = {
        one.corpus: 100 * score(one.spans, [d.spans for d in one.documents], labels).overall.f1
        for one in answers
    }
    return {"average": float(np.mean(list(corpora.values()))), "corpora": corpora}


def _described(folder: Path) -> Numbers:
    manifest = read_manifest(folder)
    return {
        "description": manifest.description,
        "created": manifest.created,
        "temperature": manifest.temperature,
        "thresholds": manifest.thresholds,
        "fitted": manifest.metrics.get("calibration"),
    }


def _version(
    name: str, answers: Sequence[Answers], scores: Numbers, labels: Sequence[str], resamples: int
) -> Numbers:
    return {
        "name": name,
        "average": asdict(average_interval(answers, labels, resamples=resamples)),
        "difference": None,
        "corpora": {one.corpus: _corpus(one, labels, resamples) for one in answers},
        "confusion": _confusion(answers, labels),
        "robustness": scores,
        "calibration": asdict(reliability(answers)),
    }


def _corpus(answers: Answers, labels: Sequence[str], resamples: int) -> Numbers:
    scores = score(answers.spans, [document.spans for document in answers.documents], labels)

    def row(label: str | None, support: int) -> Numbers:
        metrics = {
            metric: asdict(f1_interval(answers, labels, label, resamples, metric=metric))
            for metric in ("precision", "recall", "f1")
        }
        return metrics | {"support": support}

    return {
        "all": row(None, scores.overall.meant),
        "labels": {label: row(label, scores.labels[label].meant) for label in labels},
        "tokens": token_table(answers.documents, answers.spans, labels),
    }


def _differences(
    first: Sequence[Answers], answers: Sequence[Answers], labels: Sequence[str], resamples: int
) -> Numbers:
    each = {
        b.corpus: asdict(paired_difference(a, b, labels, resamples=resamples))
        for a, b in zip(first, answers, strict=True)
    }
    return {"average": asdict(average_difference(first, answers, labels, resamples=resamples)), **each}


def _confusion(answers: Sequence[Answers], labels: Sequence[str]) -> Numbers:
    """The confusion matrix over all corpora together."""
    matrices = [confusion(one, labels) for one in answers]
    counts = np.sum([matrix.counts for matrix in matrices], axis=0)
    return {"names": list(matrices[0].names), "counts": counts.tolist()}


def _counts(errors: ErrorReport) -> Numbers:
    recalls = {
        name: {"recall": recall.value, "right": recall.right, "meant": recall.meant}
        for name, recall in (("seen", errors.seen), ("unseen", errors.unseen))
    }
    return {"counts": errors.counts, **recalls}


def _run(folder: Path) -> Numbers:
    """What a run left behind: the epochs of each stage, and the learning curve where there is one."""
    stages = {}
    for path in sorted(folder.rglob("history.json")):
        parts = path.parent.relative_to(folder).parts
        aside = any(part in _ASIDE or part.startswith(".") for part in parts)
        if epochs := [] if aside else _read(path, list):
            stages["/".join(part for part in parts if part != "state") or folder.name] = epochs
    curve = folder / "learning_curve.json"
    return {
        "name": folder.name,
        "stages": stages,
        "learning_curve": _read(curve, dict) if curve.is_file() else None,
    }


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}; let the run write it again") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path}: holds no {kind.__name__}; let the run write it again")
    return content


def _command(folders: Sequence[Path], recipe: Recipe, output: Path, robustness: bool) -> str:
    arguments = [*map(str, folders), "--recipe", recipe.file, "-o", str(output.parent)]
    return shlex.join(["nerve-train", "report", *arguments, *([] if robustness else ["--quick"])])
