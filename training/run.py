"""A whole run: from a recipe to a published version. Each stage is kept and not done twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.engine.decoding import tags_of
from app.lifecycle.loading import LoadOptions, load_version
from app.manifest import Golden, Precision
from training.data.check import check
from training.data.corpora import load_held_out, load_train
from training.evaluation.evaluate import as_text, evaluate
from training.export.card import model_card
from training.export.golden import choose_golden
from training.export.onnx_file import export_onnx, input_names
from training.export.package import (
    Package,
    environment,
    features_of,
    next_version,
    write_version,
)
from training.export.quantize import quantize_by_row
from training.folders import replaced_file, replaced_folder
from training.loop import finetune
from training.recipe import Recipe

Say = Callable[[str], None]

_DONE = "done"
"""Marks a fine-tuning that went to its end."""


def prepare(recipe: Recipe) -> Path:
    """The run's folder, with the resolved recipe in it.

    Raises:
        ValueError: the folder holds a run of a recipe that trains differently.
    """
    folder = recipe.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.json"
    resolved = recipe.model_dump(mode="json")
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(
            key
            for key in ("labels", "scheme", "encoder", "train", "dev", "finetune")
            if before.get(key) != resolved[key]
        )
        if changed:
            raise ValueError(
                f"{folder}: holds a run with other {', '.join(changed)}; delete it, or keep both with "
                "--set output=runs/another"
            )
    replaced_file(file, json.dumps(resolved, indent=1, ensure_ascii=False) + "\n")
    return folder


def finetune_stage(recipe: Recipe, say: Say) -> Path:
    """Fine-tune, or go on with it; the best epoch's checkpoint."""
    folder = prepare(recipe)
    if problems := check(recipe).problems:
        raise ValueError(f"the data has problems, see nerve-train check-data: {'; '.join(problems)}")
    train = load_train(recipe)
    for corpus in train:
        say(
            f"{corpus.name}: {len(corpus.documents)} texts "
            f"({corpus.duplicates} duplicates and {corpus.leaks} leaks dropped)"
        )
    checkpoint = finetune(recipe, train, load_held_out(recipe.dev, recipe), folder / "finetune")
    replaced_file(folder / "finetune" / _DONE, "")
    return checkpoint


def export_stage(recipe: Recipe, say: Say) -> Path:
    """Export the checkpoint to ONNX, quantize it, and check both against each other.

    Returns:
        The folder with `model.<precision>.onnx`, `tokenizer.json` and `export.json`.

    Raises:
        ValueError: there is no checkpoint, or the graph computes something else than PyTorch.
    """
    folder = prepare(recipe)
    checkpoint, target = folder / "finetune" / "checkpoint", folder / "export"
    if not (folder / "finetune" / _DONE).exists():
        raise ValueError(f"{folder}: its fine-tuning is not finished; nerve-train finetune goes on with it")
    wanted = target / f"model.{recipe.export.precision}.onnx"
    if wanted.exists() and target.stat().st_mtime > checkpoint.stat().st_mtime:
        return target
    with replaced_folder(target) as new:
        report: dict[str, Any] = export_onnx(str(checkpoint), new / "model.fp32.onnx")
        say(f"fp32: logits within {report['parity_max_abs']:.1e} of PyTorch's")
        if recipe.export.precision == "int8":
            quantize_by_row(new / "model.fp32.onnx", new / "model.int8.onnx")
        (new / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
        (new / "export.json").write_text(json.dumps(report))
    return target


def publish_stage(recipe: Recipe, models: Path, number: int | None, say: Say) -> Path:
    """Choose the variant, evaluate it through the serving engine, and publish the version.

    int8 is taken when its dev F1 is within the gate of fp32's. Dev chooses, test only reports.

    Raises:
        ValueError: int8 loses more than the gate allows. FileExistsError: the version exists.
    """
    number = number or next_version(models, recipe.name)
    if (models / recipe.name / str(number)).exists():
        raise FileExistsError(f"{models / recipe.name / str(number)}: exists; versions never change")
    folder, exported = recipe.run_folder, export_stage(recipe, say)
    wanted = recipe.export.precision
    precisions: list[Precision] = ["int8", "fp32"] if wanted == "int8" else ["fp32"]
    files = {precision: exported / f"model.{precision}.onnx" for precision in precisions}
    package = Package(
        name=recipe.name,
        labels=recipe.labels,
        tags=tags_of(recipe.labels, recipe.scheme),
        scheme=recipe.scheme,
        files=files,
        tokenizer=exported / "tokenizer.json",
        inputs=features_of(input_names(exported / "model.fp32.onnx"), recipe.encoder.word_shapes),
        max_length=recipe.export.max_length,
        stride=recipe.export.stride,
        words=recipe.encoder.words,
        description=recipe.description,
        languages=recipe.languages,
        license=recipe.license,
    )
    with replaced_folder(folder / "candidate") as staging:
        candidate = write_version(package, staging, number)
        dev_corpora = load_held_out(recipe.dev, recipe)
        dev = {p: evaluate(candidate, dev_corpora, p) for p in precisions}
        for precision, result in dev.items():
            say(f"{precision}: average dev F1 {result['average_f1']:.2f}")
        loss = dev["fp32"]["average_f1"] - dev[wanted]["average_f1"]
        if loss > recipe.export.gate:
            raise ValueError(
                f"{wanted} loses {loss:.2f} points of dev F1 against fp32, export.gate allows "
                f"{recipe.export.gate}; publish fp32 with --set export.precision=fp32"
            )
        golden = _golden(candidate, precisions, recipe)
        say(f"{len(golden)} golden texts")
        test = evaluate(candidate, load_held_out(recipe.test, recipe), wanted, recipe.token_table)
        say(as_text(test))
    metrics = {"test": test, "dev": dev[wanted], "dev_average_f1_fp32": dev["fp32"]["average_f1"]}
    package = package.changed(
        files={wanted: files[wanted]},
        golden=golden,
        metrics=metrics,
        variant_metrics={p: {"dev_average_f1": dev[p]["average_f1"]} for p in precisions},
        lineage=_lineage(recipe, exported),
    )
    return write_version(package, models, number, model_card(recipe, number, metrics, files[wanted]))


def _golden(candidate: Path, precisions: list[Precision], recipe: Recipe) -> tuple[Golden, ...]:
    loaded = [load_version(candidate, LoadOptions(variant=precision)) for precision in precisions]
    try:
        return choose_golden([one.predictor for one in loaded], recipe.export.golden)
    finally:
        for one in loaded:
            one.predictor.close()


def _lineage(recipe: Recipe, exported: Path) -> dict[str, Any]:
    history = json.loads((recipe.run_folder / "finetune/state/history.json").read_text())
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"data_root", "output"}),
        "seeds": [recipe.finetune.seed],
        "teacher": recipe.encoder.source or recipe.encoder.path,
        "training_data": [
            {"name": corpus.name, "licence": corpus.licence, "source": corpus.source}
            for corpus in recipe.train
        ],
        "epochs": history,
        "export": json.loads((exported / "export.json").read_text()),
        **environment(),
    }
