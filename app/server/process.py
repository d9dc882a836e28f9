"""Process sets up a process that serves, and configures uvicorn."""

import asyncio
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

from app.errors import SettingsError
from app.main import create_app
from app.metrics import Metrics
from app.server.connections import Connections, Limits
from app.server.descriptors import most_connections
from app.server.ending import end_in_time
from app.server.memory import collect_seldom, hold_little
from app.server.metric_files import whole_server
from app.server.protocol import STATE, Protocol
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

_CLOSING_SECONDS = 5
"""Seconds beyond these in which the process closes what it holds, or else is ended."""

_SLACK_SECONDS = 30
"""Seconds beyond a stream's own limit of idleness in which it says why it ends."""

_BACKLOG = 2_048
"""Connections that the system keeps until a process takes them."""


def make_app(settings: Settings, impatient: bool = False) -> FastAPI:
    """Return the application, and set up the process, which must serve nothing else.

    Args:
        impatient: whether a second signal ends the process at once.
    """
    hold_little()
    sys.setswitchinterval(_SWITCH_SECONDS)
    app = create_app(settings, Metrics(whole_server))
    app.router.lifespan_context = _guarded(app.router.lifespan_context, settings, impatient)
    return app


def _guarded(lifespan: Lifespan, settings: Settings, impatient: bool) -> Lifespan:
    """Return a lifespan that also watches connections and signals, and calls `collect_seldom` after the
    start."""

    @asynccontextmanager
    async def guarded(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        end_in_time(end_seconds(settings), impatient)
        limits = Limits(exchange_seconds=settings.stream_idle_timeout + _SLACK_SECONDS)
        connections = Connections(most_connections(settings), limits, app.state.metrics)
        watch = asyncio.create_task(connections.watch())
        async with lifespan(app):
            collect_seldom()
            yield {STATE: connections}
        watch.cancel()

    return guarded


def end_seconds(settings: Settings) -> int:
    """Return in how many seconds after a signal a process ends, whatever hangs."""
    return _grace_seconds(settings) + _CLOSING_SECONDS


def _grace_seconds(settings: Settings) -> int:
    """Return how many seconds requests that run may take once the server shuts down."""
    return math.ceil((settings.request_timeout or _LONG_SECONDS) + _LAST_SECONDS)


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
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_grace_seconds(settings),
        timeout_worker_healthcheck=math.ceil(HUNG_SECONDS + settings.load_timeout),
    )


def drain(app: FastAPI, sig: int) -> None:
    """Make the server answer from now on that it is not ready, because signal `sig` asks it to end."""
    if not app.state.draining.is_set():
        log.info("%s: finishing requests", signal.Signals(sig).name)
    app.state.draining.set()


def bind(settings: Settings) -> socket.socket:
    """Return a socket that has the server's address; it does not listen yet.

    Raises:
        SettingsError: the address is taken, not of this machine, or not allowed.
    """
    sock = None
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, UnicodeError) as error:
        if sock:
            sock.close()
        raise _cannot_listen(settings, error) from None
    return sock


def listen(sock: socket.socket, settings: Settings) -> None:
    """Let callers connect.

    Raises:
        SettingsError: another process listened sooner.
    """
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_listen(settings, error) from None


def _cannot_listen(settings: Settings, error: Exception) -> SettingsError:
    why = getattr(error, "strerror", None) or str(error)
    return SettingsError(
        f"cannot listen on {settings.host} port {settings.port}: {why}; stop what uses it, or set "
        "NERVE_HOST and NERVE_PORT to an address of this machine that is free"
    )


def log_address(sock: socket.socket) -> None:
    """Log the address of the server."""
    host, port = sock.getsockname()[:2]
    log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
