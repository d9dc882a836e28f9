"""`nerve-train`: from labelled text, or a checkpoint, to a version that the server loads."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.engine.decoding import Scheme
from app.engine.words import WordRule
from app.errors import NerveError
from app.manifest import Precision
from training.recipe import Recipe, load_recipe

cli = typer.Typer(
    help="Fine-tune, export, evaluate and import models for Nerve.",
    no_args_is_help=True,
    add_completion=False,
)

RecipeFile = Annotated[Path, typer.Argument(help="a recipe, such as training/recipes/ner-en.toml")]
Changes = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it
    typer.Option("--set", help="change one value: --set finetune.lr=1e-4"),
]
Models = Annotated[Path, typer.Option(help="models folder to publish to")]
Number = Annotated[Optional[int], typer.Option("--version", help="default: the next free one")]  # noqa: UP045


@cli.command()
def run(
    recipe: RecipeFile, set_: Changes = None, models: Models = Path("models"), version: Number = None
) -> None:
    """Everything: check the data, fine-tune, export, quantize, evaluate, publish. Resumable."""
    from training.run import finetune_stage, publish_stage

    loaded = _recipe(recipe, set_)
    finetune_stage(loaded, typer.echo)
    _published(publish_stage(loaded, models, version, typer.echo))


@cli.command("check-data")
def check_data(recipe: RecipeFile, set_: Changes = None) -> None:
    """Report illegal tags, mixed schemes, duplicate and leaking sentences, label counts."""
    from training.data.check import as_text, check

    report = check(_recipe(recipe, set_))
    typer.echo(as_text(report))
    if report.problems:
        raise typer.Exit(1)


@cli.command()
def finetune(recipe: RecipeFile, set_: Changes = None) -> None:
    """Fine-tune the recipe's encoder, or go on after a kill."""
    from training.run import finetune_stage

    typer.echo(finetune_stage(_recipe(recipe, set_), typer.echo))


@cli.command()
def export(
    recipe: RecipeFile, set_: Changes = None, models: Models = Path("models"), version: Number = None
) -> None:
    """Export the run's checkpoint, quantize it, evaluate it and publish a version."""
    from training.run import publish_stage

    _published(publish_stage(_recipe(recipe, set_), models, version, typer.echo))


@cli.command()
def evaluate(
    version: Annotated[Path, typer.Argument(help="a version's folder, such as models/ner-en/1")],
    recipe: RecipeFile,
    set_: Changes = None,
    split: Annotated[str, typer.Option(help="test or dev")] = "test",
    variant: Annotated[str, typer.Option(help="auto, int8, fp32 or fp16")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Entity scores of a version on a recipe's test files, through the serving engine."""
    from training.data.corpora import load_held_out
    from training.evaluation.evaluate import as_text
    from training.evaluation.evaluate import evaluate as measure

    loaded = _recipe(recipe, set_)
    if split not in ("test", "dev"):
        raise ValueError(f"--split {split}: must be test or dev")
    corpora = load_held_out(loaded.test if split == "test" else loaded.dev, loaded)
    results = measure(version.resolve(), corpora, variant, loaded.token_table)
    typer.echo(json.dumps(results, indent=1) if as_json else as_text(results))


@cli.command("import")
def import_(
    checkpoint: Annotated[
        str, typer.Argument(help="a Hugging Face token-classification model: folder or hub id")
    ],
    name: Annotated[str, typer.Option(help="name to serve it under")],
    models: Models = Path("models"),
    version: Number = None,
    scheme: Annotated[Optional[Scheme], typer.Option(help="where the tags do not tell")] = None,  # noqa: UP045
    words: Annotated[
        WordRule, typer.Option(help="space: it was trained on blank-separated words")
    ] = "bert",
    precision: Annotated[Precision, typer.Option(help="fp32, or int8 by row")] = "fp32",
    golden: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="sentences in its language, one a line, to choose golden texts from"),
    ] = None,
    license_: Annotated[str, typer.Option("--license", help="of the weights, for the card")] = "",
) -> None:
    """Turn a checkpoint you have into a version that serves, checked against PyTorch."""
    from training.export.importer import import_checkpoint

    texts = golden.read_text(encoding="utf-8").splitlines() if golden else []
    _published(
        import_checkpoint(
            checkpoint,
            name,
            models,
            version=version,
            scheme=scheme,
            words=words,
            precision=precision,
            golden=[text for text in texts if text.strip()],
            license=license_,
            say=typer.echo,
        )
    )


def _recipe(path: Path, changes: list[str] | None) -> Recipe:
    return load_recipe(path, changes or ())


def _published(folder: Path) -> None:
    name, version = folder.parent.name, folder.name
    typer.echo(f"published {folder}; serve it with: nerve models activate {name} {version}")


def main() -> None:
    """Entry point: what the user can mend is a message, not a traceback."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    try:
        cli()
    except NerveError as error:
        sys.exit(f"nerve-train: {error.message}")
    except (ValueError, OSError) as error:
        sys.exit(f"nerve-train: {error}")


if __name__ == "__main__":
    main()
