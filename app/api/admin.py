"""Admin: the routes of `/models`, which show versions and change what is served."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from app.api.admin_schemas import (
    DeploymentBody,
    ModelBody,
    ModelsBody,
    NothingBody,
    ShadowBody,
    VersionBody,
)
from app.api.documentation import component
from app.api.requests import parse_json, read_content
from app.api.responses import json_response
from app.api.statuses import documented
from app.errors import BadRequest, shown
from app.machine import server_id
from app.versions.rollout.crew import aside
from app.versions.rollout.desired import Deployment, DeploymentChange
from app.versions.rollout.manager import VersionManager, VersionStatus
from app.versions.rollout.operations import Operations
from app.versions.rollout.shadow import comparison
from app.versions.rollout.store import Change, StateUnreadable
from app.versions.storage.repository import LONGEST_NAME

router = APIRouter(prefix="/models", tags=["models"])

_GENERATION = re.compile(r'(?:W/)?"?([0-9]{1,18})"?|\*')

_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` that the change was decided on; nothing changes if it is another by now.",
    "schema": {"type": "string", "pattern": f"^(?:{_GENERATION.pattern})$"},
    "example": '"17"',
}

_ETAG: dict[str, Any] = {
    "ETag": {"description": "The generation.", "required": True, "schema": {"type": "string"}}
}

_CHANGED: dict[int | str, dict[str, Any]] = {
    200: {"headers": _ETAG},
    202: {
        "model": DeploymentBody,
        "description": "Written down, but not every worker has followed in time (NERVE_CONVERGE_TIMEOUT); "
        "`waiting_for` says which has not, and why.",
        "headers": _ETAG,
    },
}

_NOTHING: dict[str, Any] = {
    "required": True,
    "description": "An object without fields. An empty body will do if it is declared as JSON.",
    "content": {"application/json": {"schema": component(NothingBody), "example": {}}},
}

Name = Annotated[
    str,
    Path(
        description="The model's name.",
        examples=["ner-en"],
        json_schema_extra={"pattern": "^[a-z0-9][a-z0-9._-]*$", "maxLength": LONGEST_NAME},
    ),
]


def _version(status: VersionStatus) -> VersionBody:
    manifest, loaded = status.manifest, status.loaded
    return VersionBody(
        version=status.version,
        state=status.state,
        reason=status.reason,
        description=manifest.description if manifest else None,
        labels=list(manifest.labels) if manifest else None,
        languages=list(manifest.languages) if manifest else None,
        license=manifest.license if manifest else None,
        metrics=manifest.metrics if manifest else None,
        precision=loaded.variant.precision if loaded else None,
        provider=loaded.provider if loaded else None,
        threads=loaded.threads if loaded else None,
        runs=loaded.runs if loaded else None,
    )


def _model(request: Request, name: str) -> ModelBody:
    manager: VersionManager = request.app.state.manager
    versions = manager.model_status(name)
    try:
        deployment = manager.operations.deployment(name)
    except StateUnreadable:  # `problem` says so
        deployment = Deployment()
    serving = [status for status in versions if status.state == "serving"]
    stable = serving[0].version if serving else None
    shadows = []
    for shadow in deployment.shadow:
        compared = asdict(comparison(request.app.state.metrics, name, shadow.version, stable))
        shadows.append(ShadowBody(version=shadow.version, percent=shadow.percent, **compared))
    return ModelBody(
        name=name,
        serving=stable,
        stable=deployment.stable,
        previous=deployment.previous,
        canary=deployment.canary,
        shadow=shadows,
        generation=deployment.generation,
        problem=manager.problem(name),
        versions=[_version(status) for status in versions],
    )


@router.get("", summary="Every model and its versions", responses=documented())
def list_models(request: Request) -> ModelsBody:
    manager: VersionManager = request.app.state.manager
    return ModelsBody(
        default=request.app.state.settings.default_model,
        workers=request.app.state.settings.workers or 1,
        models=[_model(request, name) for name in manager.names()],
    )


@router.get("/{name}", summary="One model and its versions", responses=documented(404, 422))
def show_model(name: Name, request: Request) -> ModelBody:
    return _model(request, name)


@router.get(
    "/{name}/deployment",
    summary="What should be served",
    responses={200: {"headers": _ETAG}, **documented(404, 422)},
)
def show_deployment(name: Name, request: Request, response: Response) -> Deployment:
    """The `ETag` is the generation; send it back as `If-Match` with a change."""
    manager: VersionManager = request.app.state.manager
    deployment = manager.operations.deployment(name)
    response.headers["ETag"] = f'"{deployment.generation}"'
    return deployment


@router.get("/{name}/history", summary="Who changed what when", responses=documented(404, 422))
def show_history(
    name: Name,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Of the last changes, how many.")] = 100,
) -> list[Change]:
    """The last changes of what should be served, oldest first."""
    manager: VersionManager = request.app.state.manager
    return manager.operations.history(name, limit)


@router.put(
    "/{name}/deployment",
    summary="Change what should be served",
    response_model=DeploymentBody,
    responses=_CHANGED | documented(404, 409, 412, 413, 415, 422),
    openapi_extra={
        "parameters": [_IF_MATCH],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": component(DeploymentChange),
                    "examples": {
                        "another version": {"value": {"stable": 2}},
                        "a canary": {"value": {"canary": {"version": 4, "percent": 5}}},
                        "no canary": {"value": {"canary": None}},
                        "a shadow": {"value": {"shadow": [{"version": 5, "percent": 10}]}},
                    },
                }
            },
        },
    },
)
async def change_deployment(name: Name, request: Request) -> Response:
    """New versions are verified, loaded and checked first; if one fails, nothing changes.

    Omitted fields stay; `null` ends a canary or shadows. The answer comes once every worker of this
    server has followed.
    """
    change = parse_json(DeploymentChange, await _read(request))
    expected = _expected(request)
    return await _changed(request, name, lambda ops, by: ops.deploy(name, change, by, expected))


_STEP: dict[str, Any] = {
    "response_model": DeploymentBody,
    "responses": _CHANGED | documented(404, 409, 412, 413, 415, 422),
    "openapi_extra": {"parameters": [_IF_MATCH], "requestBody": _NOTHING},
}


@router.post("/{name}/rollback", summary="Go back to the version that served before", **_STEP)
async def rollback(name: Name, request: Request) -> Response:
    return await _step(request, name, Operations.rollback)


@router.post("/{name}/promote", summary="Make the canary the stable version", **_STEP)
async def promote(name: Name, request: Request) -> Response:
    return await _step(request, name, Operations.promote)


@router.post("/{name}/abort", summary="Withdraw the canary", **_STEP)
async def abort(name: Name, request: Request) -> Response:
    return await _step(request, name, Operations.abort)


async def _step(
    request: Request, name: str, step: Callable[[Operations, str, str, int | None], Deployment]
) -> Response:
    """Make a change that needs no body, but its media type: a page of another site cannot declare it."""
    content = await _read(request)
    if content.strip():
        parse_json(NothingBody, content)
    expected = _expected(request)
    return await _changed(request, name, lambda ops, by: step(ops, name, by, expected))


async def _read(request: Request) -> bytes:
    limit = request.app.state.settings.max_body_bytes
    _, content = await read_content(request, limit, ("application/json",))
    return content


async def _changed(
    request: Request, name: str, change: Callable[[Operations, str], Deployment]
) -> Response:
    """Make a change and wait for every worker of this server: 200, or 202 if one is too late."""
    manager: VersionManager = request.app.state.manager
    seconds = request.app.state.settings.converge_timeout
    by = f"client {request.client.host}" if request.client else "client"

    # A thread of its own: a change may take as long as a check, and must hold up no other.
    changing = aside(lambda: change(manager.operations, by))
    deployment = await asyncio.shield(asyncio.wrap_future(changing))
    end = time.monotonic() + seconds
    while True:
        late = await asyncio.to_thread(manager.workers.lagging, name, deployment.generation, server_id())
        if not late or time.monotonic() >= end:
            break
        await asyncio.sleep(0.05)
    body = DeploymentBody(**dict(deployment), converged=not late, waiting_for=late)
    response = json_response(body.model_dump(), 202 if late else 200)
    response.headers["ETag"] = f'"{deployment.generation}"'
    return response


def _expected(request: Request) -> int | None:
    """Return the generation that `If-Match` names; None if it names none.

    Raises:
        BadRequest: the header holds no generation.
    """
    given = request.headers.get("if-match", "*").strip()
    found = _GENERATION.fullmatch(given)
    if not found:
        raise BadRequest(
            f"If-Match {shown(given)}: send the ETag of GET /models/…/deployment, such as "
            '"17" with its quotes, or leave it out'
        )
    return int(found[1]) if found[1] else None
