"""Failures: what went wrong with a request, as HTTP tells it."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import pydantic_core
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.statuses import STATUSES
from app.errors import Busy, NerveError, NotFound

log = logging.getLogger("nerve.request")

MORE_TIME = "(X-Request-Timeout-Ms, NERVE_REQUEST_TIMEOUT)"
"""How a caller allows a request more time, and how the operator does."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with a request, for whoever encodes it.

    Attributes:
        code: stable, for programs.
        message: for people.
        request_id: what the log calls the request.
        retry_after: seconds until it is worth coming again, where that is known.
    """

    status: int
    code: str
    message: str
    request_id: str
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What every answer with this failure has, whatever its body."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def failure_of(error: NerveError, request_id: str) -> Failure:
    """An error as HTTP tells it."""
    status = STATUSES[error.kind]
    if not isinstance(error, Busy):
        return Failure(status, error.code, error.message, request_id)
    message = f"{error.message} {MORE_TIME}" if error.late else error.message
    return Failure(status, error.code, message, request_id, error.retry_after)


def crash_of(error: Exception, request_id: str) -> NerveError:
    """What callers are told of a bug. Called where it is caught: the log gets its trace."""
    log.exception("request %s crashed", request_id)
    return NerveError(f"the server failed ({type(error).__name__}); see its log")


def error_response(failure: Failure) -> Response:
    """A failure as every route of our own answers it."""
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
    """The answer to what a route raised; an exception handler of Starlette's."""
    assert isinstance(error, NerveError)
    return error_response(failure_of(error, request.scope["nerve"].id))


async def on_http(request: Request, error: Exception) -> Response:
    """The answer where the framework has no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    where, request_id = f"{request.method} {request.url.path}", request.scope["nerve"].id
    if error.status_code == 404:
        failure = failure_of(NotFound(f"there is no {where}; see /docs"), request_id)
    else:
        code = "method_not_allowed" if error.status_code == 405 else "http_error"
        failure = Failure(error.status_code, code, f"{where}: {error.detail}", request_id)
    response = error_response(failure)
    response.headers.update(error.headers or {})
    return response
