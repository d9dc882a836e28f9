"""Process: what a process that serves sets for itself, and how uvicorn runs there."""

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
"""What an application does around its life, given the application itself."""

_SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while others want it. By default a batch that is done, and a
request that has come, would wait for ten times as long, and a processor with them."""

HUNG_SECONDS = 60
"""A worker that does not even say that it lives for so long is replaced. Its start counts too, and imports
take their time where many start at once; after them, loading has a time limit of its own."""

_LONG_SECONDS = 600
"""How long a request without a time limit may take once the server shuts down."""

_LAST_SECONDS = 10
"""How much longer than its time limit a request may take then, for its answer to be read. A caller that
never reads it would keep the server up for ever."""


def make_app(settings: Settings) -> FastAPI:
    """The application, in a process that serves nothing else and is set up for it."""
    hold_little()
    sys.setswitchinterval(_SWITCH_SECONDS)
    app = create_app(settings, Metrics(whole_server))
    app.router.lifespan_context = _settled(app.router.lifespan_context)
    return app


def _settled(lifespan: Lifespan) -> Lifespan:
    """A lifespan after whose start the garbage collector leaves alone what was imported and built."""

    @asynccontextmanager
    async def settled(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            collect_seldom()
            yield

    return settled


def uvicorn_config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs an application.

    Args:
        app: the application, or for workers the import path of what makes it.
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
    """Answer from now on that the server is not ready, as a signal asks it to end."""
    if not app.state.draining.is_set():
        log.info("%s: finishing requests", signal.Signals(sig).name)
    app.state.draining.set()


def log_address(sock: socket.socket) -> None:
    """Say in the log where the server listens."""
    host, port = sock.getsockname()[:2]
    log.info("listening on http://%s:%d", host, port)
