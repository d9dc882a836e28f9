"""Models has the commands of `nerve models`, which manage the versions that are served."""

from pathlib import Path
from typing import Annotated

import typer

from app.errors import BadRequest, NerveError, NotChecked

models = typer.Typer(help="The versions that are served.", no_args_is_help=True)


@models.command("list")
def list_versions() -> None:
    """List all versions in the models folder with their roles; exit with 1 if roles cannot be read."""
    from app.cli.operating import operations_of, roles_of
    from app.settings import read_settings
    from app.versions.rollout.workers import Workers
    from app.versions.storage.repository import Repository

    settings = read_settings()
    repository, operations = Repository(settings.models_dir), operations_of(settings)
    reports = [worker.models for worker in Workers(settings.state_folder).read()]
    failed = False
    for name in repository.names():
        try:
            deployment, versions = operations.deployment(name), repository.versions(name)
        except NerveError as error:
            failed = True
            typer.echo(f"nerve: {error.message}", err=True)
            continue
        roles = roles_of(deployment)
        unchecked = {version for models in reports if name in models for version in models[name].unchecked}
        for version in versions:
            said = (roles.get(version), "unchecked" if version in unchecked else None)
            typer.echo(f"{name}/{version}\t{', '.join(filter(None, said))}".rstrip())
    raise typer.Exit(int(failed))


Name = Annotated[str, typer.Argument(help="model, such as ner-en")]
Version = Annotated[int, typer.Argument(min=1, help="version, such as 2")]
Percent = Annotated[float, typer.Option(min=0, max=100, help="share of the requests")]


@models.command()
def activate(name: Name, version: Version) -> None:
    """Make a version the one that answers, if it passes its checks. Servers follow within seconds."""
    from app.cli.operating import change

    change(name, lambda operations, by: operations.activate(name, version, by))


@models.command()
def rollback(name: Name) -> None:
    """Go back to the version that answered before."""
    from app.cli.operating import change

    change(name, lambda operations, by: operations.rollback(name, by))


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
    from app.cli.operating import change, explaining
    from app.versions.rollout.desired import AbortRule, Canary, DeploymentChange

    judged = abort_errors is not None or abort_p99 is not None
    if requests is not None and not judged:
        raise BadRequest(
            f"--requests {requests}: the canary is judged by its last requests only with --abort-errors or "
            "--abort-p99; add one, such as --abort-errors 2"
        )
    with explaining():
        rule = AbortRule(requests=requests or 500, errors=abort_errors, p99=abort_p99) if judged else None
        wanted = DeploymentChange(
            canary=Canary(version=version, percent=percent, sticky=sticky, abort=rule)
        )
    change(name, lambda operations, by: operations.deploy(name, wanted, by, action="canary"))


@models.command()
def promote(name: Name) -> None:
    """Make the canary the version that answers."""
    from app.cli.operating import change

    change(name, lambda operations, by: operations.promote(name, by))


@models.command()
def abort(name: Name) -> None:
    """Withdraw the canary."""
    from app.cli.operating import change

    change(name, lambda operations, by: operations.abort(name, by))


@models.command()
def shadow(
    name: Name,
    version: Annotated[int | None, typer.Argument(min=1, help="version; none ends the shadow")] = None,
    percent: Percent = 10,
) -> None:
    """Give a version copies of requests, and compare its answers. Without a version, end the shadow."""
    from app.cli.operating import change, explaining
    from app.versions.rollout.desired import DeploymentChange, Shadow

    with explaining():
        shadows = (Shadow(version=version, percent=percent),) if version is not None else ()
        wanted = DeploymentChange(shadow=shadows)
    change(name, lambda operations, by: operations.deploy(name, wanted, by, action="shadow"))


@models.command()
def history(name: Name) -> None:
    """Show who changed what, and when."""
    from app.cli.operating import operations_of, said
    from app.settings import read_settings

    for change in operations_of(read_settings()).history(name):
        typer.echo(f"{change.at}\t{change.by}\t{change.action}\t{said(change.deployment)}")


@models.command()
def add(
    source: Annotated[
        str, typer.Argument(help="folder, .tar.gz, or URL of either (s3://, gs://, hf://, https://)")
    ],
) -> None:
    """Copy a version into the models folder, once it has passed its checks."""
    from app.settings import read_settings
    from app.versions.loading.from_settings import load_options
    from app.versions.loading.sandbox import new_version_check
    from app.versions.storage.adding import add_version

    settings = read_settings()
    check = new_version_check(load_options(settings), settings.models_dir)
    manifest = add_version(source, settings.models_dir, check)
    typer.echo(f"added {manifest.name}/{manifest.version}; nerve models activate serves it")


@models.command()
def verify(
    which: Annotated[str | None, typer.Argument(help="NAME or NAME/VERSION; all by default")] = None,
) -> None:
    """Run the checks of a load; exit with 1 if a version fails, or there is none."""
    from app.cli.operating import versions_of
    from app.settings import read_settings
    from app.versions.loading.from_settings import load_options
    from app.versions.loading.sandbox import sandbox_load
    from app.versions.storage.repository import Repository

    settings = read_settings()
    repository, failed = Repository(settings.models_dir), False
    for name, version in versions_of(repository, which):
        try:
            sandbox_load(repository.path(name, version), load_options(settings))
        except NerveError as error:
            failed = True
            outcome = "not checked" if isinstance(error, NotChecked) else "refused"
            typer.echo(f"{name}/{version}\t{outcome}: {error.message}")
        else:
            typer.echo(f"{name}/{version}\tpasses")
    raise typer.Exit(int(failed))


@models.command()
def sign(
    which: Annotated[str, typer.Argument(help="NAME/VERSION")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key, PEM")],
) -> None:
    """Sign a version's manifest, and so all its files. NERVE_TRUSTED_KEYS makes servers require it."""
    from app.cli.operating import version_of
    from app.settings import read_settings
    from app.versions.storage import signatures
    from app.versions.storage.repository import Repository

    name, version = version_of(which)
    typer.echo(f"wrote {signatures.sign(Repository(read_settings().models_dir).path(name, version), key)}")
