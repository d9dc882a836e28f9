"""This module writes the model card: a version's origin, data, scores and licence."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.evaluation.evaluate import as_text
from training.export.package import Package
from training.recipe import Recipe


def front_matter(license: str, languages: Sequence[str]) -> str:
    """Return the YAML head of a card, in the form that model hubs read."""
    listed = "".join(f'\n- "{language}"' for language in languages)  # YAML reads a plain `no` as false
    return f"""---
license: {license.lower() or "other"}
language:{listed or " []"}
pipeline_tag: token-classification
library_name: nerve
---
"""


def model_card(package: Package, number: int, recipe: Recipe) -> str:
    """Return `README.md` of a version, in Markdown; the package must hold its metrics."""
    metrics, lineage = package.metrics, package.lineage
    read = [(corpus.name, corpus.licence, corpus.source) for corpus in recipe.train]
    if lineage.get("student") and recipe.transfer.texts:
        read.append(("raw text, labelled by the teacher", recipe.transfer.licence, recipe.transfer.source))
    sources = "\n".join(
        f"| {name} | {licence or 'see its source'} | {source} |" for name, licence, source in read
    )
    weights = " and ".join(
        f"{path.stat().st_size / 1e6:.1f} MB ({precision})" for precision, path in package.files.items()
    )
    limits = (
        "".join(["\n## Limits\n\n", *(f"- {limit}\n" for limit in recipe.limits)]) if recipe.limits else ""
    )
    return f"""{front_matter(package.license, package.languages)}
# {package.name}/{number}

{package.description}

Labels: {", ".join(package.labels)}. {lineage["export"]["parameters"] / 1e6:.1f} million parameters in ONNX,
{weights}, served by [Nerve](../../../README.md):

    curl -s localhost:8000/ner -H 'Content-Type: application/json' \\
      -d '{{"text": "Angela Merkel visited IBM in New York.", "model": "{package.name}"}}'

## How well it does

Exact-span entity scores in percent, from raw text, through the serving engine. The version was
chosen on the dev files; these are the test files, which nothing was selected on. Reprint them with

    nerve-train evaluate models/{package.name}/{number} {recipe.file}

{as_text(metrics["test"])}

Average F1 on the dev files: {metrics["dev"]["average_f1"]:.2f}.

{_chosen(metrics["chosen"], recipe)}

{_calibration(metrics["calibration"], recipe)}

## How it was made

{lineage["made"]} The resolved recipe, seeds and library versions are in `manifest.json` under `lineage`;
`nerve-train run {recipe.file}` makes it again.

The pretrained encoder: {recipe.encoder.source or recipe.encoder.path}
({recipe.encoder.licence or "licence as its source states"}).

| trained on | licence | source |
|---|---|---|
{sources}

## Licence

The weights: {package.license or "as their sources demand"}. Sources with a share-alike licence make it
so, and each is to be attributed as above.
{limits}"""


def _chosen(chosen: Mapping[str, Any], recipe: Recipe) -> str:
    """Return the table of the precisions that were compared, and the reason for the chosen one."""
    rows = "\n".join(
        f"| {precision} | {one['dev_average_f1']:.2f} | {one['bytes'] / 1e6:.1f} "
        f"| {one['tokens_per_second']:,} |"
        for precision, one in chosen["considered"].items()
    )
    machine = chosen["machine"]
    asked = recipe.export.precision
    how = "the fastest\nthat loses" if asked == "auto" else f"{asked}, as the\nrecipe asks, which loses"
    return f"""The precision was chosen on {machine["cores"]} cores of {machine["processor"]}: {how} at most
{chosen["gate"]} points of dev F1 against fp32.

| precision | average dev F1 | MB | sub-tokens a second |
|---|---:|---:|---:|
{rows}"""


def _calibration(calibration: Mapping[str, Any], recipe: Recipe) -> str:
    before, after = calibration["ece_before"], calibration["ece_after"]
    if not recipe.export.calibrate:
        return f"Scores are not calibrated; their expected calibration error on dev is {before:.1f} %."
    cuts = [f"{label} below {value:g}" for label, value in calibration["thresholds"].items() if value]
    dropped = f"\nWhat is not worth keeping is dropped: {', '.join(cuts)}." if cuts else ""
    temperature = calibration["temperature"]
    return f"""Scores are calibrated on the dev files with a temperature of {temperature:g}: there their
expected calibration error went from {before:.1f} to {after:.1f} %.{dropped}"""
