"""This module publishes trained networks: it exports, calibrates and measures them, and writes versions."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from app.labels import tags_of
from app.manifest import MANIFEST, Golden, Precision, file_hash, read_manifest
from app.versions.loading.loader import load_single, load_version
from training.data.corpora import LoadedCorpus, load_held_out
from training.evaluation.benchmark import measure_together
from training.evaluation.calibration import Calibration, calibrate
from training.evaluation.evaluate import as_text, evaluate
from training.evaluation.machine import machine
from training.export.card import model_card
from training.export.ensemble import Members, ensemble_manifest, publish_ensemble
from training.export.golden import choose_golden
from training.export.graphs import export_graphs, read_report
from training.export.onnx_file import input_names
from training.export.package import (
    Package,
    check_free,
    environment,
    features_of,
    fill_version,
    new_version,
    next_version,
)
from training.folders import replaced_folder
from training.progress import Say
from training.recipe import Recipe
from training.stages.once import processes, rebuild
from training.stages.products import Product, best_teacher_product, compared_products, student_product
from training.stages.run_folder import find_students
from training.teacher import member_key


def publish_stage(
    recipe: Recipe, models: Path, number: int | None, names: Sequence[str], say: Say
) -> list[Path]:
    """Publish each student, or the best fine-tuned network of a recipe without students.

    The networks that students are compared with are published into the run's `models` folder: each
    teacher, their ensemble, and each student that was trained alone.

    Raises:
        ValueError: a student's name is unknown, a training is not finished, or `publish` raises it.
    """
    if not processes().is_main_process:
        return []
    products = [student_product(recipe, student) for student in find_students(recipe, names)]
    if not products:
        return [publish(best_teacher_product(recipe), recipe, models, number, say)]
    beside = recipe.run_folder / "models"
    plain = recipe.model_copy(update={"export": recipe.export.model_copy(update={"fp16": False})})
    for product in compared_products(recipe):
        if not _is_published(product, beside / product.name / "1"):
            publish(product, plain, beside, 1, say)
    _publish_teacher(recipe, beside, say)
    return [publish(product, recipe, models, number, say) for product in products]


def publish(product: Product, recipe: Recipe, models: Path, number: int | None, say: Say) -> Path:
    """Write the version `<models>/<name>/<number>/`; by default the number is the next free one.

    The shipped precision is the fastest on this machine that loses at most `export.gate` points of dev F1
    against fp32. Dev files choose and calibrate; test files only report.

    Raises:
        ValueError: there is no checkpoint, or the recipe's precision loses more than the gate allows.
        FileExistsError: the version exists.
    """
    number = number or next_version(models, product.name)
    check_free(models, product.name, number)
    exported = _exported(product, recipe, say)
    package = _package(product, recipe, exported)
    dev = load_held_out(recipe.dev, recipe)
    with new_version(models, product.name, number) as draft:
        fill_version(draft, package)
        considered = _consider(draft, list(package.files), dev, say)
        chosen = _choose(considered, recipe, say)
        package = package.changed(files=_files(exported, [chosen]))
        fill_version(draft, package)
        calibration = _calibrated(draft, dev, recipe)
        package = package.changed(temperature=calibration.temperature, thresholds=calibration.thresholds)
        fill_version(draft, package)
        golden = _golden(draft, recipe)
        say(f"{len(golden)} golden texts")
        test = evaluate(draft, load_held_out(recipe.test, recipe), chosen, recipe.token_table)
        metrics = {
            "test": test,
            "dev": evaluate(draft, dev, chosen),
            "chosen": {"gate": recipe.export.gate, "machine": asdict(machine()), "considered": considered},
            "calibration": {
                "temperature": calibration.temperature,
                "thresholds": calibration.thresholds,
                "ece_before": round(calibration.before.ece, 2),
                "ece_after": round(calibration.after.ece, 2),
            },
        }
        say(as_text(test))
        shipped: list[Precision] = [chosen, "fp16"] if recipe.export.fp16 else [chosen]
        package = package.changed(
            files=_files(exported, shipped),
            variant_metrics={p: considered[p] for p in shipped if p in considered},
            golden=golden,
            metrics=metrics,
        )
        fill_version(draft, package, model_card(package, number, recipe))
    return models / product.name / str(number)


def _exported(product: Product, recipe: Recipe, say: Say) -> Path:
    """Export the network's graphs, once for its weights; return their folder."""
    checkpoint, fp16 = product.checkpoint, recipe.export.fp16
    if not (checkpoint / "tokenizer.json").exists():
        raise ValueError(f"{checkpoint}: no checkpoint; nerve-train run or finetune makes it")
    folder = product.folder / "export"
    made_of = {"weights": member_key(checkpoint), "fp16": fp16}
    rebuild(folder, made_of, lambda new: export_graphs(product.name, checkpoint, new, fp16, say))
    return folder


def _package(product: Product, recipe: Recipe, exported: Path) -> Package:
    """Return the package with all CPU precisions and no measurements."""
    report = {"weights": member_key(product.checkpoint), **read_report(exported)}
    files = _files(exported, ["int8", "fp32"])
    return Package(
        name=product.name,
        labels=recipe.labels,
        tags=tags_of(recipe.labels, recipe.scheme),
        scheme=recipe.scheme,
        files=files,
        tokenizer=exported / "tokenizer.json",
        inputs=features_of(input_names(files["fp32"]), report["word_shapes"]),
        max_length=recipe.export.max_length,
        stride=recipe.export.stride,
        words=recipe.encoder.words,
        description=product.description,
        languages=recipe.languages,
        license=recipe.license,
        lineage={**product.lineage, "export": report, **environment()},
    )


def _files(exported: Path, precisions: Sequence[Precision]) -> dict[Precision, Path]:
    return {precision: exported / f"model.{precision}.onnx" for precision in precisions}


def _consider(
    draft: Path, precisions: Sequence[Precision], dev: Sequence[LoadedCorpus], say: Say
) -> dict[Precision, dict[str, float]]:
    """Measure dev F1, bytes and speed of each precision; speeds are measured in turns."""
    speeds = measure_together([draft] * len(precisions), variants=precisions)
    considered: dict[Precision, dict[str, float]] = {}
    for precision, speed in zip(precisions, speeds, strict=True):
        f1 = evaluate(draft, dev, precision)["average_f1"]
        considered[precision] = {
            "dev_average_f1": f1,
            "bytes": speed.bytes,
            "tokens_per_second": round(speed.tokens_per_second),
        }
        say(f"{precision}: average dev F1 {f1:.2f}, {speed.tokens_per_second:,.0f} sub-tokens a second")
    return considered


def _choose(considered: Mapping[Precision, Mapping[str, float]], recipe: Recipe, say: Say) -> Precision:
    """Return the fastest precision within the gate, or the recipe's precision; raise if it loses more."""
    wanted, gate = recipe.export.precision, recipe.export.gate
    best = considered["fp32"]["dev_average_f1"]
    if wanted != "auto":
        if (loss := best - considered[wanted]["dev_average_f1"]) > gate:
            raise ValueError(
                f"{wanted} loses {loss:.2f} points of dev F1 against fp32, export.gate allows {gate}; "
                "publish what passes with --set export.precision=auto"
            )
        return wanted
    passing = [p for p, one in considered.items() if best - one["dev_average_f1"] <= gate]
    chosen = max(passing, key=lambda p: considered[p]["tokens_per_second"])
    say(f"{chosen} is shipped: the fastest here of {', '.join(passing)}, which pass the gate of {gate}")
    return chosen


def _calibrated(draft: Path, dev: Sequence[LoadedCorpus], recipe: Recipe) -> Calibration:
    loaded = load_single(draft)
    try:
        calibration = calibrate(loaded.model, dev)
    finally:
        loaded.model.close()
    if not recipe.export.calibrate:
        return replace(calibration, temperature=1.0, thresholds={}, after=calibration.before)
    return calibration


def _golden(draft: Path, recipe: Recipe) -> tuple[Golden, ...]:
    loaded = load_version(draft)
    try:
        return choose_golden([loaded.model], recipe.export.golden)
    finally:
        loaded.model.close()


def _is_published(product: Product, version: Path) -> bool:
    """Say whether a version for comparison exists; remove it if the product has other weights now."""
    if not version.exists():
        return False
    if read_manifest(version).lineage["export"]["weights"] == member_key(product.checkpoint):
        return True
    shutil.rmtree(version)
    return False


def _publish_teacher(recipe: Recipe, beside: Path, say: Say) -> None:
    """Publish the teacher as an ensemble, if it has two or more members and all are versions."""
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
    manifest = ensemble_manifest(name, Members(members), beside, 1, said)
    test = load_held_out(recipe.test, recipe)
    version = publish_ensemble(manifest, beside, lambda draft: {"test": evaluate(draft, test)})
    f1 = read_manifest(version).metrics["test"]["average_f1"]
    say(f"{name}: average test F1 {f1:.2f}, the mean of {', '.join(members)}")
