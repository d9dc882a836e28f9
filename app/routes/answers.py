"""Answers that every route shares: JSON, errors, and how they are documented."""

import math
from typing import Any

import pydantic_core
from starlette.responses import Response

from app.errors import Busy, NerveError
from app.schemas import ErrorBody


def json_response(content: Any, status: int = 200) -> Response:
    """JSON straight from plain values: validating our own answers would cost more than making them."""
    return Response(pydantic_core.to_json(content), status, media_type="application/json")


def error_response(error: NerveError, request_id: str) -> Response:
    """An error as every route answers it."""
    body = {"error": error.message, "code": error.code, "request_id": request_id}
    response = json_response(body, error.status)
    if isinstance(error, Busy):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


_MEANINGS = {
    400: "The body is not UTF-8 (`invalid_utf8`), or not JSON (`invalid_json`).",
    404: "No such model (`unknown_model`) or version (`unknown_version`).",
    409: "The version fails its checks (`version_refused`), or there is none to go back to "
    "(`no_previous_version`), or no canary (`no_canary`); nothing changed.",
    412: "Somebody else changed it since the generation that `If-Match` names (`generation_changed`).",
    413: "More bytes (`body_too_large`), characters (`text_too_long`) or texts (`too_many_texts`) than "
    "the settings allow.",
    415: "Neither JSON nor plain text in UTF-8 (`unsupported_media_type`).",
    422: "A field is missing, unknown or of the wrong kind (`invalid_request`), the model has no such "
    "label (`unknown_label`), a version would have two roles (`invalid_deployment`), or a string holds "
    "half of a surrogate pair (`lone_surrogate`).",
    429: "The queue is full (`overloaded`); `Retry-After` says in how many seconds to come again.",
    500: "The session failed on a batch (`inference_failed`), the desired state cannot be read or written "
    "(`state_unreadable`, `state_unwritable`), or the server has a bug (`internal_error`).",
    503: "Nothing is served yet, or the server is shutting down (`not_ready`).",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with these statuses."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}
