"""Failures: turns errors into HTTP answers."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import pydantic_core
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from app.api.requests import invalid
from app.api.statuses import STATUSES
from app.errors import Busy, NerveError, NotFound, TooMuch, shown

log = logging.getLogger("nerve.request")

MORE_TIME = "(X-Request-Timeout-Ms, NERVE_REQUEST_TIMEOUT)"
"""The header by which a caller allows more time, and the setting by which the operator does."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Holds what went wrong with a request, for a dialect to encode.

    Attributes:
        code: the stable code for programs.
        message: the explanation for people.
        request_id: the id of the request in the log.
        retry_after: seconds until a retry makes sense, if known.
    """

    status: int
    code: str
    message: str
    request_id: str
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of every answer with this failure."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def failure_of(error: NerveError, request_id: str) -> Failure:
    """Return an error as a failure with its HTTP status."""
    status = STATUSES[error.kind]
    if isinstance(error, TooMuch):
        return Failure(status, error.code, f"{error.message} {MORE_TIME}", request_id)
    if not isinstance(error, Busy):
        return Failure(status, error.code, error.message, request_id)
    message = f"{error.message} {MORE_TIME}" if error.late else error.message
    return Failure(status, error.code, message, request_id, error.retry_after)


def crash_of(error: Exception, request_id: str) -> NerveError:
    """Return the error that callers see for a bug, and log the bug's trace; call it in the handler."""
    log.exception("request %s crashed", request_id)
    return NerveError(f"the server failed ({type(error).__name__}); see its log")


def error_response(failure: Failure) -> Response:
    """Return the JSON answer that all native routes give to a failure."""
    body: dict[str, Any] = {
        "error": failure.message,
        "code": failure.code,
        "request_id": failure.request_id,
    }
    if failure.retry_after is not None:
        body["retry_after"] = round(failure.retry_after, 3)
    content = pydantic_core.to_json(body)
    return Response(content, failure.status, failure.headers, media_type="application/json")


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a NerveError that a route raised (an exception handler of Starlette)."""
    assert isinstance(error, NerveError)
    return error_response(failure_of(error, request.scope["nerve"].id))


async def on_invalid(request: Request, error: Exception) -> Response:
    """Answer a parameter that FastAPI found wrong (an exception handler of Starlette)."""
    assert isinstance(error, RequestValidationError)
    return error_response(failure_of(invalid(error.errors()), request.scope["nerve"].id))


async def on_http(request: Request, error: Exception) -> Response:
    """Answer an unknown route or method (an exception handler of Starlette)."""
    assert isinstance(error, HTTPException)
    method, path, request_id = request.method, request.scope["path"], request.scope["nerve"].id
    if error.status_code == 404:
        slash = path.endswith("/") and _methods(request, path.rstrip("/"))
        hint = "leave out the slash at its end" if slash else "see /docs"
        return error_response(failure_of(NotFound(f"there is no {shown(path)}; {hint}"), request_id))
    if error.status_code != 405:
        return error_response(Failure(error.status_code, "http_error", error.detail, request_id))
    allow = ", ".join(sorted(_methods(request, path)))
    if method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": allow})
    message = f"{shown(path)} has no {method}; it has {allow}"
    response = error_response(Failure(405, "method_not_allowed", message, request_id))
    response.headers["Allow"] = allow
    return response


def _methods(request: Request, path: str) -> set[str]:
    """Return every method of a path; Starlette looks at the first of its routes only."""
    scope = {**request.scope, "path": path}
    found: set[str] = set()
    for route in request.app.routes:
        if route.matches(scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    if "GET" in found:
        found.add("HEAD")
    return found | {"OPTIONS"} if found else found
