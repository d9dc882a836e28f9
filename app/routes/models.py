"""`/models`: which versions there are, which serves, and changing that."""

import asyncio

from fastapi import APIRouter, Request

from app.lifecycle.deployment import Deployment, StateUnreadable
from app.lifecycle.manager import ModelManager, VersionStatus
from app.requests import parse_json, read_content
from app.routes.answers import documented
from app.schemas import DeploymentChange, ModelBody, ModelsBody, VersionBody

router = APIRouter(prefix="/models", tags=["models"])


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
    )


def _model(manager: ModelManager, name: str) -> ModelBody:
    versions = manager.model_status(name)
    try:
        deployment = manager.deployment(name)
    except StateUnreadable:  # `problem` says so
        deployment = Deployment()
    serving = [status.version for status in versions if status.state == "serving"]
    return ModelBody(
        name=name,
        serving=serving[0] if serving else None,
        stable=deployment.stable,
        previous=deployment.previous,
        problem=manager.problem(name),
        versions=[_version(status) for status in versions],
    )


@router.get("", summary="Every model and its versions", responses=documented(500))
def list_models(request: Request) -> ModelsBody:
    manager: ModelManager = request.app.state.manager
    return ModelsBody(
        default=request.app.state.settings.default_model,
        models=[_model(manager, name) for name in manager.names()],
    )


@router.get("/{name}", summary="One model and its versions", responses=documented(404, 422, 500))
def show_model(name: str, request: Request) -> ModelBody:
    return _model(request.app.state.manager, name)


@router.get("/{name}/deployment", summary="What should be served", responses=documented(404, 422, 500))
def show_deployment(name: str, request: Request) -> Deployment:
    manager: ModelManager = request.app.state.manager
    return manager.deployment(name)


@router.put(
    "/{name}/deployment",
    summary="Make a version the one that serves",
    responses=documented(400, 404, 409, 413, 415, 422, 500),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": DeploymentChange.model_json_schema()}},
        }
    },
)
async def change_deployment(name: str, request: Request) -> Deployment:
    """The version is verified, loaded and checked first; if it fails, nothing changes."""
    manager: ModelManager = request.app.state.manager
    limit = request.app.state.settings.max_body_bytes
    _, content = await read_content(request, limit, ("application/json",))
    change = parse_json(DeploymentChange, content)
    return await asyncio.to_thread(manager.activate, name, change.stable)


@router.post(
    "/{name}/rollback",
    summary="Go back to the version that served before",
    responses=documented(404, 409, 422, 500),
)
async def rollback(name: str, request: Request) -> Deployment:
    manager: ModelManager = request.app.state.manager
    return await asyncio.to_thread(manager.rollback, name)
