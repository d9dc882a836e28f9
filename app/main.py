"""The application: wiring and lifespan, nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from app import __version__
from app.api import admin, health, stream
from app.api.dialects import native
from app.api.middleware import RequestMiddleware
from app.api.responses import error_response
from app.errors import NerveError, NotFound, RequestError
from app.metrics import Metrics
from app.settings import Settings
from app.versions.loading.from_settings import load_options
from app.versions.rollout.desired import DeploymentStore
from app.versions.rollout.manager import ModelManager
from app.versions.storage.repository import Repository


def make_manager(settings: Settings, metrics: Metrics) -> ModelManager:
    """The manager of a server's models, not yet started."""
    return ModelManager(
        Repository(settings.models_dir),
        DeploymentStore(settings.state_folder),
        load_options(settings),
        metrics,
        settings.max_loaded_versions,
        settings.poll_seconds,
    )


def create_app(settings: Settings, metrics: Metrics | None = None) -> FastAPI:
    """The web service. Models are loaded once it starts, and closed when it ends.

    It changes nothing of the process that it runs in, so it can be mounted below another application. That
    one must then enter `app.router.lifespan_context(app)` in its own lifespan, since Starlette does not.

    Args:
        metrics: where it counts; by default in a registry of its own.
    """
    metrics = metrics or Metrics()
    manager = make_manager(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        manager.start()
        try:
            yield
        finally:
            await asyncio.to_thread(manager.close)

    app = FastAPI(
        title="Nerve",
        version=__version__,
        summary="Named entities: text in, entities out.",
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would be looked up each time
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.manager = manager
    app.state.draining = threading.Event()
    app.router.routes += native.router.routes  # an included router is matched twice
    app.include_router(stream.router)
    app.include_router(admin.router)
    app.include_router(health.router)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    app.add_exception_handler(NerveError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NerveError)
    return error_response(error, request.scope["nerve"].id)


async def _on_http(request: Request, error: Exception) -> Response:
    """The framework's own: no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        mended: NerveError = NotFound(f"there is no {where}; see /docs")
    else:
        code = "method_not_allowed" if error.status_code == 405 else "http_error"
        mended = RequestError(f"{where}: {error.detail}", code)
        mended.status = error.status_code
    response = error_response(mended, request.scope["nerve"].id)
    response.headers.update(error.headers or {})
    return response
