"""Answers that every route shares: JSON, errors, and how they are documented."""

from typing import Any

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.schemas import NerOptions
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
