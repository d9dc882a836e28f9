"""Statuses: maps each kind of error to an HTTP status, and explains each status."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from app.errors import Kind

STATUSES: Mapping[Kind, int] = {
    "bad_request": 400,
    "forbidden": 403,
    "not_found": 404,
    "refused": 409,
    "precondition": 412,
    "too_large": 413,
    "unsupported_media_type": 415,
    "unprocessable": 422,
    "busy": 429,
    "client_left": 499,  # the number that nginx logs; the caller has gone
    "failed": 500,
    "settings": 500,
    "not_ready": 503,
    "deadline": 504,
}

_MEANINGS = {
    400: "This is no HTTP/1.1 (`invalid_http`), the body is not UTF-8 (`invalid_utf8`) or not JSON "
    "(`invalid_json`), there is not one well-formed `Host` (`invalid_host`), or `If-Match` holds no "
    "generation (`bad_request`).",
    403: "`Host` is not known to be a name of this server (`host_not_allowed`), or a page of another site "
    "asks (`origin_not_allowed`).",
    404: "No such model (`unknown_model`) or version (`unknown_version`).",
    408: "The head or the body came too slowly (`request_too_slow`).",
    409: "The version fails its checks (`version_refused`), or there is none to go back to "
    "(`no_previous_version`), or no canary (`no_canary`); nothing changed.",
    412: "Somebody else changed it since the generation that `If-Match` names (`generation_changed`).",
    413: "More bytes (`body_too_large`), characters (`text_too_long`) or texts (`too_many_texts`) than "
    "the settings allow.",
    414: "Path and query are too long (`uri_too_long`).",
    415: "The body is not declared as one of the media types of this route, in UTF-8 and uncompressed "
    "(`unsupported_media_type`).",
    422: "A field or parameter is missing, unknown or of the wrong kind (`invalid_request`), the model has "
    "no such label (`unknown_label`), a version would have two roles (`invalid_deployment`), or a string "
    "holds half of a surrogate pair (`lone_surrogate`).",
    429: "The queue is full, or what waits in it would outlast the request's deadline (`overloaded`): "
    "`Retry-After` says in how many seconds to come again. Or too many requests wait on one connection "
    "(`too_many_pipelined`).",
    431: "The headers are too large (`head_too_large`).",
    500: "The session failed on a batch (`inference_failed`), the desired state cannot be read or written "
    "(`state_unreadable`, `state_unwritable`), or the server has a bug (`internal_error`).",
    503: "Nothing is served yet (`not_ready`), the server is shutting down (`shutting_down`; "
    "`not_ready` of `/readyz`), or requests run on all the connections that it can hold "
    "(`too_many_connections`).",
    504: "The answer was not there in time (`deadline_exceeded`): see `X-Request-Timeout-Ms`.",
}


class ErrorBody(BaseModel):
    """The body of every error."""

    error: str = Field(
        description="What is wrong and what to do, for people.",
        examples=["give exactly one of 'text' and 'texts'"],
    )
    code: str = Field(description="For programs; stable.", examples=["invalid_request"])
    request_id: str = Field(
        description="As in the X-Request-Id header and the server's log.",
        examples=["4f0e3c6a1b7d4d0f9a52c8e61d3b7a90"],
    )
    retry_after: float | None = Field(
        None,
        description="With 429: seconds until there will be room; `Retry-After` is the same, rounded up.",
        examples=[0.35],
    )


_EVERYWHERE = (400, 403, 408, 414, 429, 431, 500, 503)
"""Statuses with which any request may be answered."""

_RETRY_AFTER = {
    "description": "Whole seconds until there will be room, where they are known.",
    "schema": {"type": "integer", "minimum": 1},
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument for a route that can fail with these statuses."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _MEANINGS[status]}
        for status in sorted({*statuses, *_EVERYWHERE})
    }
    responses[429]["headers"] = {"Retry-After": _RETRY_AFTER}
    return responses
