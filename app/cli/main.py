"""`nerve`: serve, and look after the versions that are served."""

import getpass
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from app import __version__
from app.annotate import Wanted
from app.bulk.errors import Stopped
from app.bulk.formats import input_format, output_format
from app.bulk.run import annotate as annotate_corpus
from app.bulk.task import Task
from app.engine.memory import collect_seldom
from app.engine.runtimes.table import check_installation
from app.errors import BadRequest, NerveError, NotFound, SettingsError
from app.main import load_options
from app.metrics import Metrics
from app.rendering import OffsetUnit
from app.server.serve import run
from app.settings import Settings, read_settings
from app.versions.loading.outcomes import Checker
from app.versions.loading.sandbox import new_version_check, sandbox_load
from app.versions.rollout.desired import (
    AbortRule,
    Canary,
    Deployment,
    DeploymentChange,
    DeploymentStore,
    Shadow,
)
from app.versions.rollout.operations import Operations
from app.versions.rollout.workers import Workers
from app.versions.storage import signatures
from app.versions.storage.adding import add_version
from app.versions.storage.repository import Repository

cli = typer.Typer(help="Named entities: text in, entities out.", no_args_is_help=True, add_completion=False)
models = typer.Typer(help="The versions that are served.", no_args_is_help=True)
cli.add_typer(models, name="models")


@cli.command()
def serve(
    workers: Annotated[
        int | None, typer.Option(min=0, help="processes that share the port; wins over NERVE_WORKERS")
    ] = None,
) -> None:
    """Serve the models of NERVE_MODELS_DIR. Settings are NERVE_* environment variables."""
    if workers is not None:
        os.environ["NERVE_WORKERS"] = str(workers)  # where each worker reads its settings from
    raise typer.Exit(run(read_settings()))


@cli.command()
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
    """Add entities to every record of a corpus. The same command goes on after it was killed.

    Other settings are NERVE_* environment variables, as of nerve serve.
    """
    if models_dir is not None:
        os.environ["NERVE_MODELS_DIR"] = str(models_dir)
    settings = read_settings().model_copy(update={"workers": 1})  # no others share the CPUs
    check_installation()
    read, written = (None if name == "-" else Path(name) for name in (source, output))
    wanted = [label for part in labels or () for label in part.split(",") if label]
    task = Task(
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
    collect_seldom()
    try:
        typer.echo(f"nerve: {annotate_corpus(task)}", err=True)
    except Stopped as stopped:
        done = f" after {stopped.records:,} records; the same command goes on" if stopped.records else ""
        typer.echo(f"nerve: stopped by {stopped.name}{done}", err=True)
        raise typer.Exit(128 + stopped.number) from None
    except BrokenPipeError:  # whoever read it has enough; the end must not find that out again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(128 + signal.SIGPIPE) from None


@models.command("list")
def list_versions() -> None:
    """Every version in the models folder, and its role; exit with 1 if a model's roles cannot be read."""
    repository, operations = Repository(read_settings().models_dir), _operations(read_settings())
    failed = False
    for name in repository.names():
        try:
            deployment = operations.deployment(name)
        except NerveError as error:
            failed = True
            typer.echo(f"nerve: {error.message}", err=True)
            continue
        roles = {deployment.previous: "previous", deployment.stable: "stable"}
        roles |= {shadow.version: f"shadow {shadow.percent:g} %" for shadow in deployment.shadow}
        if canary := deployment.canary:
            roles[canary.version] = f"canary {canary.percent:g} %"
        for version in repository.versions(name):
            typer.echo(f"{name}/{version}\t{roles.get(version, '')}".rstrip())
    raise typer.Exit(int(failed))


Name = Annotated[str, typer.Argument(help="model, such as ner-en")]
Version = Annotated[int, typer.Argument(min=1, help="version, such as 2")]
Percent = Annotated[float, typer.Option(min=0, max=100, help="share of the requests")]


@models.command()
def activate(name: Name, version: Version) -> None:
    """Make a version the one that answers, if it passes its checks. Servers follow within seconds."""
    _change(name, lambda operations, by: operations.activate(name, version, by))


@models.command()
def rollback(name: Name) -> None:
    """Go back to the version that answered before."""
    _change(name, lambda operations, by: operations.rollback(name, by))


@models.command()
def canary(
    name: Name,
    version: Version,
    percent: Percent = 5,
    sticky: Annotated[
        str | None, typer.Option(help="`text` or a request header: the same is always answered alike")
    ] = None,
    abort_errors: Annotated[
        float | None, typer.Option(min=1, help="withdraw it when it fails so many times as often")
    ] = None,
    abort_p99: Annotated[
        float | None, typer.Option(min=1, help="withdraw it when its p99 latency is so many times as long")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(min=10, max=100_000, help="its last requests, which it is judged by; 500 by default"),
    ] = None,
) -> None:
    """Have a version answer a share of the requests, if it passes its checks."""
    judged = abort_errors is not None or abort_p99 is not None
    if requests is not None and not judged:
        raise BadRequest(
            f"--requests {requests}: the canary is judged by its last requests only with --abort-errors or "
            "--abort-p99; add one, such as --abort-errors 2"
        )
    with _valid():
        rule = AbortRule(requests=requests or 500, errors=abort_errors, p99=abort_p99) if judged else None
        change = DeploymentChange(
            canary=Canary(version=version, percent=percent, sticky=sticky, abort=rule)
        )
    _change(name, lambda operations, by: operations.deploy(name, change, by, action="canary"))


@models.command()
def promote(name: Name) -> None:
    """Make the canary the version that answers."""
    _change(name, lambda operations, by: operations.promote(name, by))


@models.command()
def abort(name: Name) -> None:
    """Withdraw the canary."""
    _change(name, lambda operations, by: operations.abort(name, by))


@models.command()
def shadow(
    name: Name,
    version: Annotated[int | None, typer.Argument(min=1, help="version; none ends the shadow")] = None,
    percent: Percent = 10,
) -> None:
    """Give a version copies of requests, and compare its answers. Without a version: end that."""
    with _valid():
        shadows = (Shadow(version=version, percent=percent),) if version is not None else ()
        change = DeploymentChange(shadow=shadows)
    _change(name, lambda operations, by: operations.deploy(name, change, by, action="shadow"))


@models.command()
def history(name: Name) -> None:
    """Who changed what when."""
    for change in _operations(read_settings()).history(name):
        typer.echo(f"{change.at}\t{change.by}\t{change.action}\t{_said(change.deployment)}")


@models.command()
def add(
    source: Annotated[
        str, typer.Argument(help="folder, .tar.gz, or URL of either (s3://, gs://, hf://, https://)")
    ],
) -> None:
    """Copy a version into the models folder, once it has passed its checks."""
    settings = read_settings()
    manifest = add_version(
        source, settings.models_dir, new_version_check(load_options(settings), settings.models_dir)
    )
    typer.echo(f"added {manifest.name}/{manifest.version}; nerve models activate serves it")


@models.command()
def verify(
    which: Annotated[str | None, typer.Argument(help="NAME or NAME/VERSION; all by default")] = None,
) -> None:
    """Run every check that a load would; exit with 1 if a version fails, or there is none."""
    settings = read_settings()
    repository, failed = Repository(settings.models_dir), False
    for name, version in _versions(repository, which):
        try:
            sandbox_load(repository.path(name, version), load_options(settings))
        except NerveError as error:
            failed = True
            typer.echo(f"{name}/{version}\trefused: {error.message}")
        else:
            typer.echo(f"{name}/{version}\tpasses")
    raise typer.Exit(int(failed))


@models.command()
def sign(
    which: Annotated[str, typer.Argument(help="NAME/VERSION")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key, PEM")],
) -> None:
    """Sign a version's manifest, and so all its files. NERVE_TRUSTED_KEYS makes servers ask for it."""
    name, version = _version_of(which)
    typer.echo(f"wrote {signatures.sign(Repository(read_settings().models_dir).path(name, version), key)}")


@cli.command()
def version() -> None:
    """Print the version of Nerve."""
    typer.echo(__version__)


def _operations(settings: Settings) -> Operations:
    """What operators do, beside the servers that run."""
    repository = Repository(settings.models_dir)
    checker = Checker(repository, load_options(settings), Metrics())
    return Operations(repository, DeploymentStore(settings.state_folder), checker)


def _change(name: str, change: Callable[[Operations, str], Deployment]) -> None:
    """Make a change, say what should be served, and wait for the servers that run."""
    settings = read_settings()
    deployment = change(_operations(settings), _user())
    typer.echo(f"{name}: {_said(deployment)}")
    workers = Workers(settings.state_folder)
    late = workers.wait(name, deployment.generation, settings.converge_timeout)
    for one in late:
        typer.echo(f"{one.worker}: {one.reason}", err=True)
    if running := len(workers.read()):
        typer.echo(f"{running - len(late)} of {running} running workers follow")
    raise typer.Exit(1 if late else 0)


def _version_folder(settings: Settings, name: str, version: int | None) -> Path:
    """The folder of a version; by default of the one that serves, or should, or the highest."""
    repository = Repository(settings.models_dir)
    if version is None:
        highest = repository.require(name)[-1]
        deployment = DeploymentStore(settings.state_folder).read(name)
        version = (deployment and deployment.stable) or highest
    return repository.path(name, version)


def _user() -> str:
    """Who runs this command, for the history."""
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # in a container a user may have no name
        return f"uid {os.getuid()}"


@contextmanager
def _valid() -> Iterator[None]:
    """Where a change is built: a value that none can have is a message that names it."""
    try:
        yield
    except ValidationError as error:
        raise BadRequest(
            "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
        ) from None


def _version_of(which: str) -> tuple[str, int]:
    """The model and the version of NAME/VERSION."""
    name, _, version = which.partition("/")
    if not name or not re.fullmatch(r"[1-9][0-9]*", version):
        raise BadRequest(f"{which!r}: names no version; give NAME/VERSION, such as ner-en/2")
    return name, int(version)


def _versions(repository: Repository, which: str | None) -> list[tuple[str, int]]:
    """The versions that NAME or NAME/VERSION means; all without it, of which there must be one."""
    if which is not None:
        if "/" in which:
            return [_version_of(which)]
        return [(which, version) for version in repository.require(which)]
    found = [(name, version) for name in repository.names() for version in repository.versions(name)]
    if not found:
        what = "holds no version" if repository.folder.is_dir() else "is no folder"
        raise NotFound(
            f"{repository.folder}: {what}; bring one in (nerve models add SOURCE), or set NERVE_MODELS_DIR "
            "to the folder of the models"
        )
    return found


def _said(deployment: Deployment) -> str:
    parts = [f"stable {deployment.stable}, previous {deployment.previous}"]
    if canary := deployment.canary:
        parts.append(f"canary {canary.version} with {canary.percent:g} %")
    parts += [f"shadow {shadow.version} with {shadow.percent:g} %" for shadow in deployment.shadow]
    return ", ".join(parts)


def main() -> None:
    """Entry point: an error of ours is a message, not a traceback."""
    try:
        cli()
    except SettingsError as error:
        sys.exit(f"nerve: cannot start: {error.message}")
    except NerveError as error:
        sys.exit(f"nerve: {error.message}")


if __name__ == "__main__":
    main()
