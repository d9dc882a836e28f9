"""Process sets up a process that serves, and configures uvicorn."""

import logging
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.metrics import Metrics
from app.server.memory import collect_seldom, hold_little
from app.server.metric_files import whole_server
from app.server.protocol import Protocol
from app.settings import Settings

log = logging.getLogger("nerve")

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""Takes an application and returns the context of its start and end."""

_SWITCH_SECONDS = 0.0005
"""Seconds that a thread may keep the interpreter while others want it. Python's default is ten times as
long, and keeps finished batches and new requests waiting."""

HUNG_SECONDS = 60
"""A worker that gives no sign of life for this many seconds is replaced. They must suffice for its imports
at the start, which are slow if many workers start at once; loading has a separate limit."""

_LONG_SECONDS = 600
"""Seconds that a request without a time limit may take once the server shuts down."""

_LAST_SECONDS = 10
"""Seconds beyond its time limit that a caller has to read an answer once the server shuts down. Without a
limit, a caller that never reads would keep the server running."""


def make_app(settings: Settings) -> FastAPI:
    """Return the application, and set up the process, which must serve nothing else."""
    hold_little()
    sys.setswitchinterval(_SWITCH_SECONDS)
    app = create_app(settings, Metrics(whole_server))
    app.router.lifespan_context = _settled(app.router.lifespan_context)
    return app


def _settled(lifespan: Lifespan) -> Lifespan:
    """Return a lifespan that calls `collect_seldom` after the start."""

    @asynccontextmanager
    async def settled(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            collect_seldom()
            yield

    return settled


def uvicorn_config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration.

    Args:
        app: the application, or for workers the import path of the function that makes it.
    """
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=Protocol,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil((settings.request_timeout or _LONG_SECONDS) + _LAST_SECONDS),
        timeout_worker_healthcheck=math.ceil(HUNG_SECONDS + settings.load_timeout),
    )


def drain(app: FastAPI, sig: int) -> None:
    """Make the server answer from now on that it is not ready, because signal `sig` asks it to end."""
    if not app.state.draining.is_set():
        log.info("%s: finishing requests", signal.Signals(sig).name)
    app.state.draining.set()


def log_address(sock: socket.socket) -> None:
    """Log the address of the server."""
    host, port = sock.getsockname()[:2]
    log.info("listening on http://%s:%d", host, port)
