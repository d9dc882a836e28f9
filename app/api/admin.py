"""Admin: the routes of `/models`, which show versions and change what is served."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.api.admin_schemas import DeploymentBody, ModelBody, ModelsBody, ShadowBody, VersionBody
from app.api.requests import parse_json, read_content
from app.api.responses import json_response
from app.api.statuses import documented
from app.errors import BadRequest
from app.machine import server_id
from app.versions.rollout.crew import aside
from app.versions.rollout.desired import Deployment, DeploymentChange
from app.versions.rollout.manager import VersionManager, VersionStatus
from app.versions.rollout.operations import Operations
from app.versions.rollout.shadow import comparison
from app.versions.rollout.store import Change, StateUnreadable

router = APIRouter(prefix="/models", tags=["models"])

_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` that the change was decided on; nothing changes if it is another by now.",
    "schema": {"type": "string"},
    "example": '"17"',
}

_LATE: dict[int | str, dict[str, Any]] = {
    202: {
        "model": DeploymentBody,
        "description": "Written down, but not every worker has followed in time (NERVE_CONVERGE_TIMEOUT); "
        "`waiting_for` says which has not, and why.",
    }
}


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


@router.get("", summary="Every model and its versions", responses=documented(500))
def list_models(request: Request) -> ModelsBody:
    manager: VersionManager = request.app.state.manager
    return ModelsBody(
        default=request.app.state.settings.default_model,
        workers=request.app.state.settings.workers or 1,
        models=[_model(request, name) for name in manager.names()],
    )


@router.get("/{name}", summary="One model and its versions", responses=documented(404, 422, 500))
def show_model(name: str, request: Request) -> ModelBody:
    return _model(request, name)


@router.get("/{name}/deployment", summary="What should be served", responses=documented(404, 422, 500))
def show_deployment(name: str, request: Request, response: Response) -> Deployment:
    """The `ETag` is the generation; send it back as `If-Match` with a change."""
    manager: VersionManager = request.app.state.manager
    deployment = manager.operations.deployment(name)
    response.headers["ETag"] = f'"{deployment.generation}"'
    return deployment


@router.get("/{name}/history", summary="Who changed what when", responses=documented(404, 422, 500))
def show_history(
    name: str,
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
    responses=_LATE | documented(400, 404, 409, 412, 413, 415, 422, 500, 503),
    openapi_extra={
        "parameters": [_IF_MATCH],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": DeploymentChange.model_json_schema(),
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
async def change_deployment(name: str, request: Request) -> Response:
    """New versions are verified, loaded and checked first; if one fails, nothing changes.

    Omitted fields stay; `null` ends a canary or shadows. The answer comes once every worker of this
    server has followed.
    """
    limit = request.app.state.settings.max_body_bytes
    _, content = await read_content(request, limit, ("application/json",))
    change = parse_json(DeploymentChange, content)
    expected = _expected(request)
    return await _changed(request, name, lambda ops, by: ops.deploy(name, change, by, expected))


@router.post(
    "/{name}/rollback",
    summary="Go back to the version that served before",
    response_model=DeploymentBody,
    responses=_LATE | documented(400, 404, 409, 412, 422, 500, 503),
    openapi_extra={"parameters": [_IF_MATCH]},
)
async def rollback(name: str, request: Request) -> Response:
    expected = _expected(request)
    return await _changed(request, name, lambda ops, by: ops.rollback(name, by, expected))


@router.post(
    "/{name}/promote",
    summary="Make the canary the stable version",
    response_model=DeploymentBody,
    responses=_LATE | documented(400, 404, 409, 412, 422, 500, 503),
    openapi_extra={"parameters": [_IF_MATCH]},
)
async def promote(name: str, request: Request) -> Response:
    expected = _expected(request)
    return await _changed(request, name, lambda ops, by: ops.promote(name, by, expected))


@router.post(
    "/{name}/abort",
    summary="Withdraw the canary",
    response_model=DeploymentBody,
    responses=_LATE | documented(400, 404, 409, 412, 422, 500, 503),
    openapi_extra={"parameters": [_IF_MATCH]},
)
async def abort(name: str, request: Request) -> Response:
    expected = _expected(request)
    return await _changed(request, name, lambda ops, by: ops.abort(name, by, expected))


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
    if given == "*":
        return None
    number = given.removeprefix("W/").strip('"')
    if not number.isdecimal():
        raise BadRequest(
            f'If-Match {given}: send the ETag of GET /models/…/deployment, such as "17", or leave it out'
        )
    return int(number)
