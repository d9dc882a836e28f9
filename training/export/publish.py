"""Publishing: from a trained checkpoint to a version: exported, chosen, calibrated, measured, written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from app.labels import tags_of
from app.manifest import Golden, Precision
from app.versions.loading.loader import load_single, load_version
from training.data.corpora import LoadedCorpus, load_held_out
from training.evaluation.benchmark import measure_together
from training.evaluation.calibration import Calibration, calibrate
from training.evaluation.evaluate import as_text, evaluate
from training.evaluation.machine import machine
from training.export.card import model_card
from training.export.fusion import fuse_fp16
from training.export.golden import choose_golden
from training.export.onnx_file import export_onnx, input_names
from training.export.package import Package, environment, features_of, next_version, write_version
from training.export.quantize import quantize_by_row
from training.folders import replaced_folder
from training.models import load_tagger
from training.models.transformer import TransformerTagger
from training.recipe import Recipe
from training.teacher import member_key

Say = Callable[[str], None]


@dataclass(frozen=True)
class Product:
    """A trained network that becomes a version.

    Attributes:
        name: the version's.
        checkpoint: the network's folder.
        folder: where what is made on the way is kept.
        lineage: what it was made of, for the manifest.
    """

    name: str
    description: str
    checkpoint: Path
    folder: Path
    lineage: Mapping[str, Any] = field(default_factory=dict)


def publish(product: Product, recipe: Recipe, models: Path, number: int | None, say: Say) -> Path:
    """Write the version `<models>/<name>/<number>/`; the number is the next free one by default.

    Of the precisions that lose at most `export.gate` of dev F1 against fp32, the one that is fastest on
    this machine is shipped. Dev chooses and calibrates, test only reports.

    Raises:
        ValueError: the precision that is asked for loses more than the gate allows.
        FileExistsError: the version exists.
    """
    number = number or next_version(models, product.name)
    if (models / product.name / str(number)).exists():
        raise FileExistsError(f"{models / product.name / str(number)}: exists; versions never change")
    exported = export(product, recipe, say)
    fp32 = exported / "model.fp32.onnx"
    files: dict[Precision, Path] = {"int8": exported / "model.int8.onnx", "fp32": fp32}
    report = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    package = Package(
        name=product.name,
        labels=recipe.labels,
        tags=tags_of(recipe.labels, recipe.scheme),
        scheme=recipe.scheme,
        files=files,
        tokenizer=exported / "tokenizer.json",
        inputs=features_of(input_names(fp32), report["word_shapes"]),
        max_length=recipe.export.max_length,
        stride=recipe.export.stride,
        words=recipe.encoder.words,
        description=product.description,
        languages=recipe.languages,
        license=recipe.license,
    )
    dev = load_held_out(recipe.dev, recipe)
    with replaced_folder(product.folder / "candidate") as staging:
        candidate = write_version(package, staging, number)
        considered = _consider(candidate, list(files), dev, say)
        chosen = _choose(considered, recipe, say)
    shipped: list[Precision] = [chosen, "fp16"] if recipe.export.fp16 else [chosen]
    files = {precision: exported / f"model.{precision}.onnx" for precision in shipped}
    package = package.changed(
        files=files,
        variant_metrics={p: considered[p] for p in shipped if p in considered},
        lineage={**product.lineage, "export": report, **environment()},
    )
    with replaced_folder(product.folder / "candidate") as staging:
        candidate = write_version(package.changed(files={chosen: files[chosen]}), staging, number)
        calibration = _calibrated(candidate, dev, recipe)
        package = package.changed(temperature=calibration.temperature, thresholds=calibration.thresholds)
    with replaced_folder(product.folder / "candidate") as staging:
        candidate = write_version(package.changed(files={chosen: files[chosen]}), staging, number)
        golden = _golden(candidate, recipe)
        say(f"{len(golden)} golden texts")
        test = evaluate(candidate, load_held_out(recipe.test, recipe), chosen, recipe.token_table)
        after = evaluate(candidate, dev, chosen)
    say(as_text(test))
    metrics = {
        "test": test,
        "dev": after,
        "chosen": {"gate": recipe.export.gate, "machine": asdict(machine()), "considered": considered},
        "calibration": {
            "temperature": calibration.temperature,
            "thresholds": calibration.thresholds,
            "ece_before": round(calibration.before.ece, 2),
            "ece_after": round(calibration.after.ece, 2),
        },
    }
    package = package.changed(golden=golden, metrics=metrics)
    return write_version(package, models, number, model_card(package, number, recipe))


def export(product: Product, recipe: Recipe, say: Say) -> Path:
    """Export the checkpoint to ONNX, quantize it, and check each against the one before.

    Returns:
        The folder with `model.<precision>.onnx`, `tokenizer.json` and `export.json`.

    Raises:
        ValueError: there is no checkpoint, or a graph computes something else than PyTorch.
    """
    target, checkpoint = product.folder / "export", product.checkpoint
    if not (checkpoint / "tokenizer.json").exists():
        raise ValueError(f"{checkpoint}: no checkpoint; nerve-train run or finetune makes it")
    made, weights = target / "export.json", member_key(checkpoint)
    if made.exists():
        old = json.loads(made.read_text(encoding="utf-8"))
        if old.get("weights") == weights and (not recipe.export.fp16 or "fused" in old):
            return target
    with replaced_folder(target) as new:
        fp32 = new / "model.fp32.onnx"
        report: dict[str, Any] = {"weights": weights, **export_onnx(str(checkpoint), fp32)}
        say(f"{product.name} fp32: logits within {report['parity_max_abs']:.1e} of PyTorch's")
        quantize_by_row(fp32, new / "model.int8.onnx")
        tagger = load_tagger(checkpoint)
        report["architecture"] = tagger.architecture
        report["parameters"] = sum(p.numel() for p in tagger.parameters())
        report["word_shapes"] = not isinstance(tagger, TransformerTagger) or tagger.takes_shapes
        if recipe.export.fp16:
            if not isinstance(tagger, TransformerTagger):
                raise ValueError(
                    f"{product.name}: export.fp16 is for Transformers, this is a {tagger.architecture}"
                )
            config = tagger.network.config
            report["fused"] = fuse_fp16(
                fp32,
                new / "model.fp16.onnx",
                config.num_attention_heads,
                config.hidden_size,
                config.num_hidden_layers,
            )
            say(f"{product.name} fp16: fused {report['fused']}")
        (new / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
        (new / "export.json").write_text(json.dumps(report), encoding="utf-8")
    return target


def _consider(
    candidate: Path, precisions: Sequence[Precision], dev: Sequence[LoadedCorpus], say: Say
) -> dict[Precision, dict[str, float]]:
    """Dev F1 and speed of each precision, measured in turns."""
    speeds = measure_together([candidate] * len(precisions), variants=precisions)
    considered: dict[Precision, dict[str, float]] = {}
    for precision, speed in zip(precisions, speeds, strict=True):
        f1 = evaluate(candidate, dev, precision)["average_f1"]
        considered[precision] = {
            "dev_average_f1": f1,
            "bytes": speed.bytes,
            "tokens_per_second": round(speed.tokens_per_second),
        }
        say(f"{precision}: average dev F1 {f1:.2f}, {speed.tokens_per_second:,.0f} sub-tokens a second")
    return considered


def _choose(considered: Mapping[Precision, Mapping[str, float]], recipe: Recipe, say: Say) -> Precision:
    """The fastest precision within the gate, or the one that is asked for."""
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


def _calibrated(candidate: Path, dev: Sequence[LoadedCorpus], recipe: Recipe) -> Calibration:
    loaded = load_single(candidate)
    try:
        calibration = calibrate(loaded.model, dev)
    finally:
        loaded.model.close()
    if not recipe.export.calibrate:
        return replace(calibration, temperature=1.0, thresholds={}, after=calibration.before)
    return calibration


def _golden(candidate: Path, recipe: Recipe) -> tuple[Golden, ...]:
    loaded = load_version(candidate)
    try:
        return choose_golden([loaded.model], recipe.export.golden)
    finally:
        loaded.model.close()
