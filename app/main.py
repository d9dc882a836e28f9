"""The application: wiring and lifespan, nothing else."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from app import __version__
from app.annotate import Service
from app.api import admin, health, stream
from app.api.annotating import routes_of
from app.api.dialects.table import DIALECTS
from app.api.failures import on_error, on_http
from app.api.middleware import RequestMiddleware
from app.engine.memory import collect_seldom, hold_little
from app.errors import NerveError
from app.machine import available_cpus
from app.metrics import Metrics
from app.settings import Settings
from app.versions.loading.options import LoadOptions
from app.versions.rollout.desired import DeploymentStore
from app.versions.rollout.manager import VersionManager
from app.versions.storage.repository import Repository

_SWITCH_SECONDS = 0.0005
"""How long a thread may hold the interpreter where others want it. A batch that is done, and a request that
has come, would wait for ten times as long by default, and a processor with them."""


def load_options(settings: Settings) -> LoadOptions:
    """How versions are run, as the settings say; a worker has its part of the CPUs."""
    return LoadOptions(
        provider=settings.provider,
        allow_cpu_fallback=settings.allow_cpu_fallback,
        variant=settings.variant,
        threads=settings.threads or max(1, available_cpus() // (settings.workers or 1)),
        runs=settings.runs,
        max_queue_tokens=settings.max_queue_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        load_timeout=settings.load_timeout,
        load_memory_bytes=settings.load_memory_bytes,
        trusted_keys=settings.trusted_keys,
    )


def make_manager(settings: Settings, metrics: Metrics) -> VersionManager:
    """The manager of a server's models, not yet started."""
    return VersionManager(
        Repository(settings.models_dir),
        DeploymentStore(settings.state_folder),
        load_options(settings),
        metrics,
        settings.max_loaded_versions,
        settings.poll_seconds,
    )


def create_app(settings: Settings, metrics: Metrics | None = None) -> FastAPI:
    """The web service. Models are loaded once it starts, and closed when it ends.

    Args:
        metrics: of the whole server, where it has several processes.
    """
    hold_little()
    sys.setswitchinterval(_SWITCH_SECONDS)
    metrics = metrics or Metrics()
    manager = make_manager(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        manager.start()
        collect_seldom()
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
    app.state.service = service = Service(manager, metrics, settings.default_model)
    for dialect in DIALECTS:  # an included router would be matched twice
        app.router.routes += routes_of(dialect, service, metrics, settings)
    app.include_router(stream.router)
    app.include_router(admin.router)
    app.include_router(health.router)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    app.add_exception_handler(NerveError, on_error)
    app.add_exception_handler(HTTPException, on_http)
    return app
