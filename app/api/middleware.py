"""Middleware: gives every request an id, a log line, metrics, and an answer even after a crash."""

import asyncio
import logging
import random
import re
import time
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.failures import crash_of, error_response, failure_of
from app.api.origins import Origins
from app.api.statuses import STATUSES
from app.errors import NerveError, NotFound, NotReady
from app.metrics import Metrics

log = logging.getLogger("nerve.request")

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """Holds what is logged of a request; routes fill it in. It never holds a text.

    Attributes:
        started: the time of arrival on the clock of `time.monotonic()`.
        outcome: the status that tells how it ended, where the one that was sent, before, does not.
    """

    id: str
    started: float
    model: str = ""
    version: str = ""
    texts: int = 0
    characters: int = 0
    outcome: int = 0


class RequestMiddleware:
    """Wraps an ASGI application; each request's record is `scope["nerve"]`.

    Args:
        origins: refuses requests of pages of other sites.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: Origins | None = None):
        self._app = app
        self._metrics = metrics
        self._origins = origins or Origins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _deny(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = scope["nerve"] = RequestRecord(_request_id(scope), time.monotonic())
        # HEAD is answered as GET is; the server leaves out the body of what is HEAD to it.
        asked = scope if scope["method"] != "HEAD" else {**scope, "method": "GET"}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            self._origins.check(scope)
            await self._app(asked, receive, send_with_id)
        except ClientDisconnect:
            status = STATUSES["client_left"]
        except asyncio.CancelledError:  # the server ends, and the time for what runs is over
            ending = NotReady("the server is shutting down; send the request again", "shutting_down")
            if not status:
                await error_response(failure_of(ending, record.id))(asked, receive, send_with_id)
            raise
        except Exception as error:
            known = error if isinstance(error, NerveError) else crash_of(error, record.id)
            if not status:
                await error_response(failure_of(known, record.id))(asked, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            self._finish(scope, asked.get("route"), record, status)

    def _finish(self, scope: Scope, found: object, record: RequestRecord, status: int) -> None:
        status = record.outcome or status
        seconds = time.monotonic() - record.started
        route = getattr(found, "path", "other")
        of = (route, record.model, record.version, str(status))
        self._metrics.requests.labels(*of).inc()
        self._metrics.request_seconds.labels(*of).observe(seconds)
        quiet = route in ("/healthz", "/readyz", "/metrics")
        level = logging.DEBUG if quiet and status == 200 else logging.INFO
        if log.isEnabledFor(level):
            version = f" {record.model}/{record.version}" if record.model else ""
            texts = f" {record.texts} texts {record.characters} chars" if record.texts else ""
            log.log(
                level,
                "%s %s %d %.1f ms%s%s %s",
                scope["method"],
                scope["path"],
                status,
                1000 * seconds,
                version,
                texts,
                record.id,
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(1000 * seconds, 3),
                    "request_id": record.id,
                    "model": record.model or None,
                    "version": int(record.version) if record.version else None,
                    "texts": record.texts,
                    "characters": record.characters,
                },
            )


async def _deny(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse to speak WebSocket, with an answer where the server can send one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    failure = failure_of(NotFound("there are no WebSockets here; see /docs"), _request_id(scope))
    response = error_response(failure)
    response.headers["X-Request-Id"] = failure.request_id
    await response(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """Return the caller's id if it is fit for a log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if _ID.fullmatch(value):
                return bytes(value).decode()
            break
    return new_request_id()


def new_request_id() -> str:
    """Return a new id. It needs no secure randomness, whose system call can make the thread wait for the
    interpreter's lock again."""
    return f"{random.getrandbits(128):032x}"
