"""Annotating: the way of a request, from its first byte to its answer, in whatever dialect it comes."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app.annotate import Service
from app.api.dialects.dialect import Dialect
from app.api.failures import crash_of, failure_of
from app.api.requests import check_limits, read_content, read_timeout
from app.api.responses import DirectRoute
from app.api.solitude import Solitude
from app.api.waiting import Deadline, answer_of
from app.errors import NerveError
from app.metrics import Metrics
from app.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]


class Annotating:
    """Answers the requests of one application, in all its dialects."""

    def __init__(self, service: Service, metrics: Metrics, settings: Settings):
        self._service = service
        self._stage_seconds = metrics.stage_seconds
        self._settings = settings
        self._solitude = Solitude()

    def routes_of(self, dialect: Dialect[Any]) -> list[BaseRoute]:
        """Return the routes of a dialect for an application."""
        router = APIRouter(tags=[dialect.tag], route_class=DirectRoute)

        async def annotate(request: Request) -> Response:
            with self._solitude:
                return await self._answer(dialect, request)

        for route in dialect.routes:
            endpoint = _shown(dialect, route.show) if route.show else annotate
            router.add_api_route(
                route.path, endpoint, methods=[route.method], name=route.name, **route.documentation
            )
        return router.routes

    async def _answer(self, dialect: Dialect[Any], request: Request) -> Response:
        """Decode a request, annotate its texts and encode the answer."""
        settings, record = self._settings, request.scope["nerve"]
        ask = None
        try:
            seconds = read_timeout(request, settings.request_timeout)
            deadline = None if seconds is None else record.started + seconds
            async with Deadline(deadline):
                media, body = await read_content(request, settings.max_body_bytes, dialect.accepts)
                started = time.perf_counter()
                ask = dialect.decode(request, media, body)
                texts = ask.texts
                check_limits(texts, settings)
                parse_seconds = time.perf_counter() - started
                with await self._service.lease(ask, request.headers.get) as annotator:
                    of = record.model, record.version = annotator.of
                    record.texts, record.characters = len(texts), sum(map(len, texts))
                    self._stage_seconds.labels(*of, "parse").inc(parse_seconds)
                    annotation = await annotator.annotate(
                        texts,
                        deadline,
                        lambda future: answer_of(future, request.receive),
                        self._solitude.may_hold,
                    )
                spent = self._stage_seconds.labels(*of, "render").inc
                started = time.perf_counter()
                answer = dialect.encode(ask, annotation)
                spent(time.perf_counter() - started)
                return answer if isinstance(answer, Response) else await answer.response(spent)
        except Exception as error:
            return _failed(dialect, ask, error, record.id)


def _shown(dialect: Dialect[Any], show: Endpoint) -> Endpoint:
    """Return the endpoint of a route that annotates nothing; it fails in the shape of its dialect."""

    async def endpoint(request: Request) -> Response:
        try:
            return await show(request)
        except Exception as error:
            return _failed(dialect, None, error, request.scope["nerve"].id)

    return endpoint


def _failed(dialect: Dialect[Any], ask: Any, error: Exception, request_id: str) -> Response:
    known = error if isinstance(error, NerveError) else crash_of(error, request_id)
    failure = failure_of(known, request_id)
    response = dialect.encode_error(ask, failure)
    response.headers.update(failure.headers)
    return response
