"""The application: wiring and lifespan, nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import __version__
from app.annotate import Service
from app.api import admin, documentation, health, stream
from app.api.annotating import Annotating
from app.api.dialects.table import DIALECTS
from app.api.failures import on_error, on_http, on_invalid
from app.api.middleware import RequestMiddleware
from app.api.origins import Origins
from app.api.room import Room
from app.errors import NerveError
from app.metrics import Metrics
from app.settings import Settings
from app.versions.loading.from_settings import load_options
from app.versions.rollout.manager import VersionManager
from app.versions.rollout.store import DeploymentStore
from app.versions.storage.repository import Repository


def make_manager(settings: Settings, metrics: Metrics) -> VersionManager:
    """The manager of a server's models, not yet started."""
    return VersionManager(
        Repository(settings.models_dir),
        DeploymentStore(settings.state_folder),
        load_options(settings),
        metrics,
        settings.max_loaded_versions,
        settings.poll_seconds,
        settings.default_model,
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

    app = documentation.DocumentedAPI(
        title="Nerve",
        version=__version__,
        summary="Named entities: text in, entities out.",
        lifespan=lifespan,
        openapi_url=None,  # see app.api.documentation
        redirect_slashes=False,  # it would lead to whatever `Host` the caller sent
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would be looked up each time
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.manager = manager
    app.state.draining = threading.Event()
    app.state.bodies = Room(settings.max_bodies_bytes // (settings.workers or 1))
    app.state.spools = Room(settings.stream_spools_bytes // (settings.workers or 1))
    app.state.service = service = Service(manager, metrics, settings.default_model)
    app.state.annotating = annotating = Annotating(service, metrics, settings)
    for dialect in DIALECTS:  # an included router would be matched twice
        app.router.routes += annotating.routes_of(dialect)
    for router in (stream.router, admin.router, health.router, documentation.router):
        app.router.routes += router.routes
    app.add_middleware(RequestMiddleware, metrics=metrics, origins=Origins(settings.allowed_hosts))
    app.add_exception_handler(NerveError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    return app
