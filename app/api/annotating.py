"""Annotating: takes a request of any dialect from its first byte to its answer."""

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app.annotate import Service
from app.api.dialects.dialect import Dialect, Route
from app.api.failures import crash_of, failure_of
from app.api.requests import check_limits, read_content, read_timeout
from app.api.responses import DirectRoute
from app.api.solitude import Solitude
from app.api.waiting import Deadline, answer_of
from app.errors import NerveError
from app.metrics import Metrics
from app.settings import Settings


def routes_of(
    dialect: Dialect[Any], service: Service, metrics: Metrics, settings: Settings, solitude: Solitude
) -> list[BaseRoute]:
    """Return the routes of a dialect for an application.

    Args:
        solitude: shared by all dialects, whose requests it counts.
    """
    router = APIRouter(tags=[dialect.tag], route_class=DirectRoute)
    for route in dialect.routes:
        handler = _Handler(dialect, route, service, metrics, settings, solitude)
        endpoint = handler.show if route.show else handler.annotate
        router.add_api_route(
            route.path, endpoint, methods=[route.method], name=route.name, **route.documentation
        )
    return router.routes


class _Handler:
    """Answers the requests of one route."""

    def __init__(
        self,
        dialect: Dialect[Any],
        route: Route,
        service: Service,
        metrics: Metrics,
        settings: Settings,
        solitude: Solitude,
    ):
        self._dialect = dialect
        self._route = route
        self._service = service
        self._stage_seconds = metrics.stage_seconds
        self._settings = settings
        self._solitude = solitude

    async def annotate(self, request: Request) -> Response:
        """Decode a request, annotate its texts and encode the answer."""
        with self._solitude:
            return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        dialect, settings, record = self._dialect, self._settings, request.scope["nerve"]
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
        except NerveError as error:
            return self._failed(request, ask, error)
        except Exception as error:
            return self._failed(request, ask, crash_of(error, record.id))

    async def show(self, request: Request) -> Response:
        """Answer a request of a route that annotates nothing."""
        assert self._route.show
        try:
            return await self._route.show(request)
        except NerveError as error:
            return self._failed(request, None, error)
        except Exception as error:
            return self._failed(request, None, crash_of(error, request.scope["nerve"].id))

    def _failed(self, request: Request, ask: Any, error: NerveError) -> Response:
        failure = failure_of(error, request.scope["nerve"].id)
        response = self._dialect.encode_error(ask, failure)
        response.headers.update(failure.headers)
        return response
