"""Annotate is the command `nerve annotate`."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from app.settings import Settings

OffsetUnit = Literal["codepoint", "utf16", "byte"]
"""Repeats the type of `app.rendering`, whose import takes too long for `nerve --help`."""


def annotate(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="file, or - for standard input")],
    output: Annotated[str, typer.Option("-o", "--output", help="file, or - for standard output")],
    form: Annotated[
        str | None, typer.Option("--format", help="of the input; text, jsonl, csv or parquet, .gz added")
    ] = None,
    output_form: Annotated[
        str | None, typer.Option("--output-format", help="jsonl, csv or parquet; by default as it is named")
    ] = None,
    field: Annotated[str, typer.Option(help="JSON field or column with the text")] = "text",
    model: Annotated[str | None, typer.Option(help="by default NERVE_DEFAULT_MODEL")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="by default the one that serves")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="only entities of these; repeated or separated by commas")
    ] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="only entities that reach it")] = 0.0,
    offset_unit: Annotated[OffsetUnit, typer.Option(help="what start and end count")] = "codepoint",
    models_dir: Annotated[Path | None, typer.Option(help="wins over NERVE_MODELS_DIR")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="a bad record is an error")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an output that is there")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="throw away what is half done")] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="how often what is done is made safe from a kill")
    ] = 5.0,
) -> None:
    """Add entities to every record of a corpus. After a kill, the same command goes on.

    Other settings are NERVE_* environment variables, as of nerve serve.
    """
    from app.annotate import Wanted
    from app.bulk.errors import Stopped
    from app.bulk.formats import input_format, output_format
    from app.bulk.job import Job
    from app.bulk.run import annotate as annotate_corpus
    from app.engine.runtimes.table import check_installation
    from app.server.memory import collect_seldom, hold_little
    from app.settings import read_settings
    from app.versions.loading.from_settings import load_options

    if models_dir is not None:
        os.environ["NERVE_MODELS_DIR"] = str(models_dir)
    settings = read_settings().model_copy(update={"workers": 1})  # no other process shares the CPUs
    check_installation()
    read, written = (None if name == "-" else Path(name) for name in (source, output))
    wanted = [label for part in labels or () for label in part.split(",") if label]
    job = Job(
        source=read,
        source_format=input_format(read, form),
        output=written,
        output_format=output_format(written, output_form),
        field=field,
        wanted=Wanted(labels=wanted or None, min_score=min_score),
        offset_unit=offset_unit,
        folder=_version_folder(settings, model or settings.default_model, version),
        load=load_options(settings),
        max_text_chars=settings.max_text_chars,
        strict=strict,
        force=force,
        restart=restart,
        checkpoint_seconds=checkpoint_seconds,
    )
    hold_little()
    collect_seldom()
    try:
        typer.echo(f"nerve: {annotate_corpus(job)}", err=True)
    except Stopped as stopped:
        done = f" after {stopped.records:,} records; the same command goes on" if stopped.records else ""
        typer.echo(f"nerve: stopped by {stopped.name}{done}", err=True)
        raise typer.Exit(128 + stopped.number) from None
    except BrokenPipeError:  # the reader closed it; Python's flush at exit must not fail on it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(128 + signal.SIGPIPE) from None


def _version_folder(settings: "Settings", name: str, version: int | None) -> Path:
    """Return the folder of a version, by default of the stable one, or else of the highest."""
    from app.versions.rollout.store import DeploymentStore, version_to_serve
    from app.versions.storage.repository import Repository

    repository = Repository(settings.models_dir)
    if version is None:
        version = version_to_serve(name, repository, DeploymentStore(settings.state_folder))
    return repository.path(name, version)
