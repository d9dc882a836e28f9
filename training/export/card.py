"""The model card: what a version is, what it was made of, how well it does, and how to check that."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.evaluation.evaluate import as_text
from training.recipe import Recipe


def front_matter(license: str, languages: Sequence[str]) -> str:
    """The YAML head of a card, as model hubs read it."""
    listed = "".join(f"\n- {language}" for language in languages)
    return f"""---
license: {license.lower() or "other"}
language:{listed or " []"}
pipeline_tag: token-classification
library_name: nerve
---
"""


def model_card(recipe: Recipe, number: int, metrics: dict[str, Any], weights: Path) -> str:
    """`README.md` of a version, in Markdown."""
    sources = "\n".join(
        f"| {corpus.name} | {corpus.licence or 'see its source'} | {corpus.source} |"
        for corpus in recipe.train
    )
    epochs = recipe.finetune.epochs
    limits = (
        "".join(["\n## Limits\n\n", *(f"- {limit}\n" for limit in recipe.limits)]) if recipe.limits else ""
    )
    return f"""{front_matter(recipe.license, recipe.languages)}
# {recipe.name}/{number}

{recipe.description}

Labels: {", ".join(recipe.labels)}. One ONNX file of {weights.stat().st_size / 1e6:.1f} MB
({weights.name.split(".")[1]}), served by [Nerve](../../../README.md):

    curl -s localhost:8000/ner -H 'Content-Type: application/json' \\
      -d '{{"text": "Angela Merkel visited IBM in New York."}}'

## How well it does

Exact-span entity scores in percent, from raw text, through the serving engine. The version was
chosen on the dev files; these are the test files, which nothing was selected on. Reprint them with

    nerve-train evaluate models/{recipe.name}/{number} {recipe.file}

{as_text(metrics["test"])}

Average F1 on the dev files: {metrics["dev"]["average_f1"]:.2f}
(the same weights in fp32: {metrics["dev_average_f1_fp32"]:.2f}).

## How it was made

`nerve-train run {recipe.file}`: {recipe.encoder.source or recipe.encoder.path}
({recipe.encoder.licence or "licence as its source states"}) fine-tuned for up to {epochs} epochs;
the resolved recipe, seeds and library versions are in `manifest.json` under `lineage`.

| trained on | licence | source |
|---|---|---|
{sources}

## Licence

The weights: {recipe.license or "as their sources demand"}. Sources with a share-alike licence make it
so, and each is to be attributed as above.
{limits}"""
