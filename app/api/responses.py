"""Answers that every route shares: JSON, errors, and how they are documented."""

import math
from typing import Any

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.schemas import ErrorBody, NerOptions
from app.errors import Busy, NerveError
from app.metrics import Metrics


class DirectRoute(APIRoute):
    """A documented route that is its function, `async def route(request) -> Response`.

    FastAPI reads, solves and closes nothing around it: that would take a tenth of a short request's time.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            response = await self.endpoint(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def json_response(content: Any, status: int = 200) -> Response:
    """JSON straight from plain values: validating our own answers would cost more than making them."""
    return Response(pydantic_core.to_json(content), status, media_type="application/json")


def error_response(error: NerveError, request_id: str) -> Response:
    """An error as every route answers it."""
    body: dict[str, Any] = {"error": error.message, "code": error.code, "request_id": request_id}
    if not isinstance(error, Busy):
        return json_response(body, error.status)
    response = json_response(body | {"retry_after": round(error.retry_after, 3)}, error.status)
    response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


def count_answers(metrics: Metrics, of: tuple[str, str], results: list[dict[str, Any]]) -> None:
    """Count texts that were answered, and their entities.

    Args:
        of: model and version.
        results: as `render_result` makes them, one a text.
    """
    scores: dict[str, list[float]] = {}
    for result in results:
        for entity in result["entities"]:
            scores.setdefault(entity["label"], []).append(entity["score"])
    metrics.texts.labels(*of).inc(len(results))
    for label, found in scores.items():
        metrics.entities.labels(*of, label).inc(len(found))
        metrics.entity_scores.labels(*of, label).observe_all(found)


def option_parameters(note: str = "") -> list[dict[str, Any]]:
    """The options of `NerOptions` as query parameters of a route's documentation.

    Args:
        note: added to each description.
    """
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description") + note,
            "schema": schema,
        }
        for name, schema in NerOptions.model_json_schema()["properties"].items()
    ]


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
    429: "The queue is full, or what waits in it would outlast the request's deadline (`overloaded`); "
    "`Retry-After` says in how many seconds to come again.",
    500: "The session failed on a batch (`inference_failed`), the desired state cannot be read or written "
    "(`state_unreadable`, `state_unwritable`), or the server has a bug (`internal_error`).",
    503: "Nothing is served yet, or the server is shutting down (`not_ready`).",
    504: "The answer was not there in time (`deadline_exceeded`): see `X-Request-Timeout-Ms`.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with these statuses."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}
