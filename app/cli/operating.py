"""Operating has the functions that the commands of `nerve models` share."""

import getpass
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError

from app.errors import BadRequest, NotFound
from app.metrics import Metrics
from app.settings import Settings, read_settings
from app.versions.loading.from_settings import load_options
from app.versions.loading.outcomes import Checker
from app.versions.rollout.desired import Deployment
from app.versions.rollout.operations import Operations
from app.versions.rollout.store import DeploymentStore
from app.versions.rollout.workers import Workers
from app.versions.storage.repository import Repository


def operations_of(settings: Settings) -> Operations:
    """Return the operations on the models folder and the state folder of these settings."""
    repository = Repository(settings.models_dir)
    checker = Checker(repository, load_options(settings), Metrics())
    return Operations(repository, DeploymentStore(settings.state_folder), checker)


def change(name: str, make: Callable[[Operations, str], Deployment]) -> None:
    """Make a change, print the desired state, and exit once the running servers follow, or with 1."""
    settings = read_settings()
    deployment = make(operations_of(settings), user())
    typer.echo(f"{name}: {said(deployment)}")
    workers = Workers(settings.state_folder)
    late = workers.wait(name, deployment.generation, settings.converge_timeout)
    for one in late:
        typer.echo(f"{one.worker}: {one.reason}", err=True)
    if running := len(workers.read()):
        typer.echo(f"{running - len(late)} of {running} running workers follow")
    raise typer.Exit(1 if late else 0)


def user() -> str:
    """Return the user who runs this command, for the history."""
    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):  # in a container a user may have no name
        return f"uid {os.getuid()}"


@contextmanager
def explaining() -> Iterator[None]:
    """Turn an invalid value of a change, built within the context, into a message that names it."""
    try:
        yield
    except ValidationError as error:
        raise BadRequest(
            "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
        ) from None


def version_of(which: str) -> tuple[str, int]:
    """Return the model and the version of NAME/VERSION."""
    name, _, version = which.partition("/")
    if not name or not re.fullmatch(r"[1-9][0-9]*", version):
        raise BadRequest(f"{which!r}: names no version; give NAME/VERSION, such as ner-en/2")
    return name, int(version)


def versions_of(repository: Repository, which: str | None) -> list[tuple[str, int]]:
    """Return the versions of NAME or NAME/VERSION; without it, all versions, of which there must be one."""
    if which is not None:
        if "/" in which:
            return [version_of(which)]
        return [(which, version) for version in repository.require(which)]
    found = [(name, version) for name in repository.names() for version in repository.versions(name)]
    if not found:
        what = "holds no version" if repository.folder.is_dir() else "is no folder"
        raise NotFound(
            f"{repository.folder}: {what}; bring one in (nerve models add SOURCE), or set NERVE_MODELS_DIR "
            "to the folder of the models"
        )
    return found


def roles_of(deployment: Deployment) -> dict[int | None, str]:
    """Return the role of each version of a model, for people."""
    roles: dict[int | None, str] = {deployment.previous: "previous", deployment.stable: "stable"}
    roles |= {shadow.version: f"shadow {shadow.percent:g} %" for shadow in deployment.shadow}
    if canary := deployment.canary:
        roles[canary.version] = f"canary {canary.percent:g} %"
    return roles


def said(deployment: Deployment) -> str:
    """Return the desired state as text for people."""
    parts = [f"stable {deployment.stable}, previous {deployment.previous}"]
    if canary := deployment.canary:
        parts.append(f"canary {canary.version} with {canary.percent:g} %")
    parts += [f"shadow {shadow.version} with {shadow.percent:g} %" for shadow in deployment.shadow]
    return ", ".join(parts)
