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
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from app.lifecycle.loading import load_version
from app.manifest import MANIFEST, read_manifest
from training.data.corpora import LoadedCorpus, load_held_out, load_train
from training.evaluation import plots
from training.evaluation.answers import Answers, ask
from training.evaluation.benchmark import machine, measure_together
from training.evaluation.calibration import reliability
from training.evaluation.errors import ErrorReport, Example, analyse, confusion, seen_mentions
from training.evaluation.robustness import PERTURBATIONS, perturbed
from training.evaluation.significance import (
    average_difference,
    average_interval,
    f1_interval,
    paired_difference,
)
from training.evaluation.spans import score
from training.evaluation.tokens import token_table
from training.folders import replaced_file
from training.recipe import Recipe

_ASIDE = ("search", "learning_curve")
"""Folders of a run whose trainings are shown otherwise."""

Say = Callable[[str], None]
Numbers = dict[str, Any]

UNCHANGED = "as it is"
"""The row of the robustness table that nothing was done to."""


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
    replaced_file(output.with_suffix(".json"), json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    replaced_file(output.with_suffix(".md"), as_markdown(numbers))
    replaced_file(output, as_page(numbers, examples))
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


def as_page(numbers: Numbers, errors: Mapping[str, Mapping[str, ErrorReport]]) -> str:
    """The page of a report.

    Args:
        numbers: what `report.json` holds.
        errors: of each version and corpus, for the examples that the page quotes.
    """
    environment = Environment(
        loader=PackageLoader("training.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    quoted = {
        name: {
            corpus: {kind: [_quoted(one) for one in some] for kind, some in of_corpus.examples.items()}
            for corpus, of_corpus in of_version.items()
        }
        for name, of_version in errors.items()
    }
    template = environment.get_template("report.html.j2")
    return template.render(numbers=numbers, quoted=quoted, plots=_plots(numbers), unchanged=UNCHANGED)


def as_markdown(numbers: Numbers) -> str:
    """The tables of a report, in Markdown."""
    versions, corpora = numbers["versions"], [corpus["name"] for corpus in numbers["corpora"]]
    parts: list[str] = []

    def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        marks = ["---", *["---:"] * (len(head) - 1)]
        lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, marks, *rows)]
        parts.append("\n".join([f"### {title}", "", *(f"| {line} |" for line in lines)]))

    if versions:
        table(
            "Versions",
            ["version", "average F1", *corpora, "parameters", "MB", "sub-tokens/s", "ms a sentence"],
            [
                [
                    one["name"],
                    _interval(one["average"]),
                    *(_interval(one["corpora"][corpus]["all"]["f1"]) for corpus in corpora),
                    *_speed(one["speed"]),
                ]
                for one in versions
            ]
            + [
                [f"{one['name']}, in PyTorch", *([""] * (1 + len(corpora))), *_speed(one)]
                for one in [numbers["torch"]]
                if one
            ],
        )
    if len(versions) > 1:
        table(
            f"Difference to {versions[0]['name']}, in points of F1 (* the interval excludes zero)",
            ["version", "average", *corpora],
            [
                [one["name"], *(_difference(one["difference"][key]) for key in ("average", *corpora))]
                for one in versions[1:]
            ],
        )
    for one in versions:
        table(
            f"{one['name']} by label",
            ["corpus", "label", "precision", "recall", "F1", "entities"],
            [
                [
                    corpus,
                    label,
                    *(_interval(row[m]) for m in ("precision", "recall", "f1")),
                    str(row["support"]),
                ]
                for corpus in corpora
                for label, row in {
                    "all": one["corpora"][corpus]["all"],
                    **one["corpora"][corpus]["labels"],
                }.items()
            ],
        )
        kinds = list(one["corpora"][corpora[0]]["errors"]["counts"])
        table(
            f"{one['name']}: kinds of errors, and recall of mentions that training showed",
            ["corpus", *kinds, "seen", "unseen"],
            [
                [
                    corpus,
                    *(str(sum(errors["counts"][kind].values())) for kind in kinds),
                    *(
                        f"{errors[key]['recall']:.1f} of {errors[key]['meant']}"
                        for key in ("seen", "unseen")
                    ),
                ]
                for corpus in corpora
                for errors in (one["corpora"][corpus]["errors"],)
            ],
        )
    if versions and versions[0]["robustness"]:
        table(
            "Average F1 after each perturbation",
            ["perturbation", *(one["name"] for one in versions)],
            [
                [kind, *(f"{one['robustness'][kind]['average']:.1f}" for one in versions)]
                for kind in versions[0]["robustness"]
            ],
        )
    if versions:
        table(
            "Expected calibration error on the test files, in percent",
            ["version", "ECE"],
            [[one["name"], f"{one['calibration']['ece']:.1f}"] for one in versions],
        )
    return "\n\n".join([*parts, f"Reprint it with `{numbers['command']}`."]) + "\n"


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


def _speed(speed: Numbers) -> list[str]:
    return [
        f"{speed['parameters']:,}",
        f"{speed['bytes'] / 1e6:.1f}",
        f"{speed['tokens_per_second']:,.0f}",
        f"{speed['milliseconds_per_sentence']:.2f}",
    ]


def _ask(
    folder: Path,
    test: Sequence[LoadedCorpus],
    disturbed: Mapping[str, Sequence[LoadedCorpus]],
    labels: Sequence[str],
) -> tuple[list[Answers], Numbers]:
    """A version's answers, and its F1 after each perturbation."""
    loaded = load_version(folder)
    try:
        answers = [ask(loaded.predictor, corpus) for corpus in test]
        scores = {UNCHANGED: _f1s(answers, labels)} if disturbed else {}
        for name, corpora in disturbed.items():
            scores[name] = _f1s([ask(loaded.predictor, corpus) for corpus in corpora], labels)
    finally:
        loaded.predictor.close()
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


def _quoted(example: Example) -> Numbers:
    """An example as the page shows it: its excerpt, cut around the entities meant and found."""
    spans = [span for span in (example.meant, example.found) if span]
    start = min(span.start for span in spans) - example.start
    end = max(span.end for span in spans) - example.start
    return {
        "document": example.document,
        "cut": example.start > 0,
        "before": example.excerpt[:start],
        "marked": example.excerpt[start:end],
        "after": example.excerpt[end:],
        "meant": (example.meant_text, example.meant.label) if example.meant else None,
        "found": (
            (example.found_text, example.found.label, example.found.score) if example.found else None
        ),
    }


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


def _plots(numbers: Numbers) -> dict[str, Any]:
    """The plots there is data for, as SVG that the page takes as it is."""
    versions = numbers["versions"]
    drawn: dict[str, Any] = {
        "confusion": {
            one["name"]: Markup(
                plots.confusion_map(
                    f"{one['name']}: labels meant against labels found",
                    one["confusion"]["names"],
                    np.array(one["confusion"]["counts"]),
                )
            )
            for one in versions
        },
        "learning": {
            run["name"]: Markup(
                plots.learning_curve(f"{run['name']}: F1 by labelled texts", run["learning_curve"])
            )
            for run in numbers["runs"]
            if run["learning_curve"]
        },
        "training": {
            run["name"]: Markup(
                plots.training_curves(f"{run['name']}: dev F1 and loss by epoch", run["stages"])
            )
            for run in numbers["runs"]
            if run["stages"]
        },
    }
    if versions:
        curves = {one["name"]: one["calibration"] for one in versions}
        drawn["reliability"] = Markup(plots.reliability_diagram(curves))
    if versions and versions[0]["robustness"]:
        bars = {
            one["name"]: {kind.replace("_", " "): row["average"] for kind, row in one["robustness"].items()}
            for one in versions
        }
        drawn["robustness"] = Markup(plots.robustness_bars(bars))
    if len(versions) > 1:
        points = [
            plots.Point(
                one["name"],
                one["average"]["value"],
                one["average"]["low"],
                one["average"]["high"],
                one["speed"]["milliseconds_per_sentence"],
                one["speed"]["bytes"],
            )
            for one in versions
        ]
        drawn["pareto"] = Markup(plots.pareto(points))
    return drawn


def _command(folders: Sequence[Path], recipe: Recipe, output: Path, robustness: bool) -> str:
    arguments = [*map(str, folders), "--recipe", recipe.file, "-o", str(output.parent)]
    return shlex.join(["nerve-train", "report", *arguments, *([] if robustness else ["--quick"])])


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:.1f} [{one['low']:.1f}, {one['high']:.1f}]"


def _difference(one: Mapping[str, float]) -> str:
    mark = " *" if one["low"] > 0 or one["high"] < 0 else ""
    p = f"p = {one['p_value']:.3f}" if one["p_value"] >= 0.001 else "p < 0.001"
    return f"{one['value']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}], {p}{mark}"
