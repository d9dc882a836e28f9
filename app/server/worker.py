"""Worker is one of several processes that serve one port under a supervisor."""

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from app.errors import NerveError
from app.machine import process_start
from app.server.logs import configure_logging
from app.server.metric_files import FOLDER, LOADED
from app.server.process import Lifespan, drain, make_app
from app.settings import Settings, read_settings

log = logging.getLogger("nerve")

LOAD_AFTER = "NERVE_LOAD_AFTER"
"""Names the environment variable with the process number of the first worker. It makes the others take
requests only once their models are loaded, and also the first one's, which takes requests at once."""

_ORPHAN_SECONDS = 30
"""Seconds that a worker has to finish its requests after its supervisor was killed."""


def worker_app() -> FastAPI:
    """Return the application of one worker; uvicorn calls this in the worker's process."""
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    try:
        app = make_app(settings)
    except NerveError as error:
        log.error("cannot start: %s", error.message)
        sys.exit(STARTUP_FAILURE)
    _drain_at_signals(app)
    threading.Thread(target=_end_with_supervisor, name="supervisor watch", daemon=True).start()
    app.router.lifespan_context = _announced(app.router.lifespan_context, settings)
    return app


def _drain_at_signals(app: FastAPI) -> None:
    """Have each signal make the server unready, before uvicorn's handler runs."""
    for sig in (signal.SIGTERM, signal.SIGINT):
        server = signal.getsignal(sig)

        def heard(sig: int, frame: FrameType | None, server: object = server) -> None:
            drain(app, sig)
            if callable(server):
                server(sig, frame)

        signal.signal(sig, heard)


def _end_with_supervisor() -> None:
    """End this worker if its supervisor dies; in an orderly end the worker ends first."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return
    supervisor.join()
    log.error("the supervisor died; ending with it")
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)  # workers can still count: files are open
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def _announced(lifespan: Lifespan, settings: Settings) -> Lifespan:
    """Return a lifespan that also loads the models first, if asked to, and counts this worker."""

    @asynccontextmanager
    async def announced(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            loading = asyncio.create_task(_loaded(app, settings.load_timeout))
            if LOAD_AFTER in os.environ:
                await loading
            app.state.metrics.workers.set(1)
            yield state
            loading.cancel()

    return announced


async def _loaded(app: FastAPI, seconds: float) -> None:
    """Wait until every model serves or has failed to, also in the first worker, but at most `seconds`."""
    manager = app.state.manager

    def loaded() -> bool:
        return all(manager.ready(name) or manager.problem(name) for name in manager.names())

    end = time.monotonic() + seconds
    folder = Path(os.environ[FOLDER])
    said = False
    while time.monotonic() < end and not app.state.draining.is_set():
        if not said and await asyncio.to_thread(loaded):
            (folder / LOADED.format(os.getpid())).touch()
            said = True
        if said and _first_loaded(folder):
            return
        await asyncio.sleep(0.05)


def _first_loaded(folder: Path) -> bool:
    """Say whether the first worker has loaded its models, or has died."""
    first = os.environ.get(LOAD_AFTER)
    return first is None or (folder / LOADED.format(first)).exists() or not process_start(int(first))
