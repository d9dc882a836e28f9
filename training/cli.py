"""`nerve-train` makes a version that the server loads from labelled text, or from a checkpoint."""

import json
import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Optional

import typer

from app.errors import NerveError
from app.labels import Scheme, WordRule
from app.manifest import Method, Precision
from training.recipe import Recipe, load_recipe

cli = typer.Typer(
    help="Fine-tune, distill, export, evaluate and import models for Nerve.",
    no_args_is_help=True,
    add_completion=False,
)

RecipeFile = Annotated[Path, typer.Argument(help="a recipe, such as training/recipes/ner-en.toml")]
Changes = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this annotation
    typer.Option("--set", help="change one value: --set finetune.lr=1e-4"),
]
Students = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--student", help="only this one; may be repeated"),
]
OneStudent = Annotated[Optional[str], typer.Option("--student", help="whose values are searched")]  # noqa: UP045
Models = Annotated[Path, typer.Option(help="models folder to publish to")]
Number = Annotated[Optional[int], typer.Option("--version", help="default: the next free one")]  # noqa: UP045


@cli.command()
def run(
    recipe: RecipeFile,
    set_: Changes = None,
    student: Students = None,
    models: Models = Path("models"),
    version: Number = None,
) -> None:
    """Check the data, fine-tune teachers, distill students, export, evaluate and publish. Resumable."""
    from training.stages.distill import distill_stage
    from training.stages.finetune import finetune_stage
    from training.stages.publish import publish_stage
    from training.stages.run_folder import check_given_members, find_students

    loaded = _recipe(recipe, set_)
    find_students(loaded, student or ())  # report a wrong name now, before hours of training
    if loaded.students:
        check_given_members(loaded)
    if loaded.finetune.seeds:
        finetune_stage(loaded, typer.echo)
    if loaded.students:
        distill_stage(loaded, student or (), typer.echo)
    for folder in publish_stage(loaded, models, version, student or (), typer.echo):
        _published(folder)


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
    """Fine-tune the recipe's encoder with each of its seeds, or go on after a kill."""
    from training.stages.finetune import finetune_stage

    for checkpoint in finetune_stage(_recipe(recipe, set_), typer.echo):
        typer.echo(checkpoint)


@cli.command()
def distill(recipe: RecipeFile, set_: Changes = None, student: Students = None) -> None:
    """Have the fine-tuned teacher label the transfer set and train students on it. Resumable."""
    from training.stages.distill import distill_stage

    for checkpoint in distill_stage(_recipe(recipe, set_), student or (), typer.echo):
        typer.echo(checkpoint)


@cli.command()
def export(
    recipe: RecipeFile,
    set_: Changes = None,
    student: Students = None,
    models: Models = Path("models"),
    version: Number = None,
) -> None:
    """Export what a run trained, choose its precision, calibrate and evaluate it, and publish versions."""
    from training.stages.publish import publish_stage

    for folder in publish_stage(_recipe(recipe, set_), models, version, student or (), typer.echo):
        _published(folder)


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
    files = loaded.test if split == "test" else loaded.dev
    if not files:
        raise ValueError(f"{recipe}: has no [[{split}]] to evaluate on; add one")
    corpora = load_held_out(files, loaded)
    results = measure(version.resolve(), corpora, variant, loaded.token_table)
    typer.echo(json.dumps(results, indent=1) if as_json else as_text(results))


@cli.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="versions, the first of which is compared with; and run folders")
    ],
    recipe: Annotated[Path, typer.Option(help="whose test files are asked about")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write to")] = Path("report"),
    quick: Annotated[bool, typer.Option(help="no robustness, fewer resamples")] = False,
    torch: Annotated[bool, typer.Option(help="time the recipe's encoder in PyTorch too")] = False,
    set_: Changes = None,
) -> None:
    """One page on how versions do: intervals, errors, robustness, calibration, speed and size."""
    from training.evaluation.report import report as write

    page = write(
        [folder.resolve() for folder in folders],
        _recipe(recipe, set_),
        output / "report.html",
        resamples=1_000 if quick else 10_000,
        robustness=not quick,
        torch=torch,
        command=shlex.join(["nerve-train", *sys.argv[1:]]),
        say=typer.echo,
    )
    typer.echo(f"wrote {page}, and report.md and report.json beside it")


@cli.command()
def benchmark(
    versions: Annotated[list[Path], typer.Argument(help="versions to time in turns")],
    recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="time its encoder in PyTorch too, as the teacher runs there"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="turns of each; medians count")] = 9,
    threads: Annotated[int, typer.Option(help="of each session; 0: as the server would")] = 0,
) -> None:
    """Parameters, bytes, sub-tokens a second, milliseconds a sentence: all in one run on this machine."""
    from training.evaluation.benchmark import family_table, measure_together, recorded_f1
    from training.evaluation.machine import machine

    folders = [version.resolve() for version in versions]
    teacher = _recipe(recipe, None) if recipe else None
    rows = measure_together(folders, rounds, threads, teacher=teacher)
    about = machine()
    typer.echo(f"{about.cores} cores of {about.processor}, {about.system}")
    typer.echo(family_table(rows, recorded_f1(folders)))


@cli.command()
def search(recipe: RecipeFile, set_: Changes = None, student: OneStudent = None) -> None:
    """Search the recipe's ranges for what does best on dev. Resumable."""
    from training.search import search as search_ranges
    from training.stages.run_folder import prepare

    loaded = _recipe(recipe, set_)
    prepare(loaded)
    typer.echo(search_ranges(loaded, student, typer.echo))


@cli.command("learning-curve")
def learning_curve(
    recipe: RecipeFile,
    student: Annotated[str, typer.Option(help="of the recipe's students")],
    shares: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option("--share", help="of the labelled texts; may be repeated; 0.05, 0.2 and 1 by default"),
    ] = None,
    whole_teacher: Annotated[
        bool, typer.Option(help="take the run's teacher, who has seen all labels, for every share")
    ] = False,
    set_: Changes = None,
) -> None:
    """F1 by amount of labelled text, with and without distillation. Resumable."""
    from training.curve import SHARES
    from training.curve import learning_curve as measure
    from training.stages.run_folder import find_students, prepare

    loaded = _recipe(recipe, set_)
    prepare(loaded)
    (one,) = find_students(loaded, [student])
    typer.echo(measure(loaded, one, shares or SHARES, typer.echo, whole_teacher))


@cli.command()
def soup(
    checkpoints: Annotated[list[Path], typer.Argument(help="checkpoints of one architecture")],
    output: Annotated[Path, typer.Option("--output", "-o", help="checkpoint folder to write")],
    recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="whose dev files tell how good each is; needed for --greedy"),
    ] = None,
    greedy: Annotated[bool, typer.Option(help="keep only what does not lower dev F1")] = False,
    set_: Changes = None,
) -> None:
    """Average the weights of several runs into one network."""
    from training.soup import soup as make_soup

    typer.echo(
        make_soup(checkpoints, output, _recipe(recipe, set_) if recipe else None, greedy, typer.echo)
    )


@cli.command()
def ensemble(
    name: Annotated[str, typer.Argument(help="name to serve it under")],
    members: Annotated[list[str], typer.Option("--member", help="such as ner-en/2; two or more")],
    weights: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option("--weight", help="one for each member, in order; all alike by default"),
    ] = None,
    method: Annotated[Method, typer.Option(help="mean of word posteriors, or vote over spans")] = "mean",
    models: Models = Path("models"),
    version: Number = None,
) -> None:
    """Publish a version that answers with several others together."""
    from training.export.ensemble import Members, package_ensemble

    _published(package_ensemble(name, Members(members, method, weights), models, version))


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
    from training.export.importer import ImportOptions, import_checkpoint

    texts = golden.read_text(encoding="utf-8").splitlines() if golden else []
    options = ImportOptions(
        scheme=scheme,
        words=words,
        precision=precision,
        golden=[text for text in texts if text.strip()],
        license=license_,
    )
    _published(import_checkpoint(checkpoint, name, models, options, version, typer.echo))


@cli.command()
def pack(
    folder: Annotated[Path, typer.Argument(help="a version's folder, such as models/ner-en/3")],
    version: Number = None,
) -> None:
    """Publish an int8 version again, packed: padding costs nothing, and the logits are the same."""
    from training.export.repack import repack

    _published(repack(folder.resolve(), version))


def _recipe(path: Path, changes: list[str] | None) -> Recipe:
    return load_recipe(path, changes or ())


def _published(folder: Path) -> None:
    name, version = folder.parent.name, folder.name
    typer.echo(f"published {folder}; serve it with: nerve models activate {name} {version}")


def main() -> None:
    """Run the command line; print errors that the user can fix as messages, without a traceback."""
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
