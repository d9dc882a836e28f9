"""Responses: routes that bypass FastAPI, and bodies that are made a piece at a time."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_TURN_SECONDS = 0.001
"""Seconds that pieces of one body are made before other requests have a turn."""

_LARGE = 1024 * 1024
"""Bytes of a body up to which it is sent at once."""


class DirectRoute(APIRoute):
    """Calls its function, `async def route(request) -> Response`, directly; FastAPI only documents it.

    FastAPI's handling of parameters and dependencies would be a large part of a short request's time.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            response = await self.endpoint(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def json_response(content: Any, status: int = 200) -> Response:
    """Return plain values as JSON, unvalidated: validation takes longer than making the answer."""
    return Response(pydantic_core.to_json(content), status, media_type="application/json")


class Pieces:
    """Makes a large body a piece at a time, so that other requests have their turn in between.

    Args:
        pieces: the pieces of the body, made lazily.
    """

    def __init__(self, pieces: Iterable[bytes], media_type: str = "application/json"):
        self._pieces = pieces
        self._media_type = media_type

    async def response(self, spent: Callable[[float], None]) -> Response:
        """Return the response with the whole body.

        Args:
            spent: called with the seconds that the pieces took, without the turns of other requests.
        """
        made: list[bytes] = []
        started = time.perf_counter()
        for piece in self._pieces:
            made.append(piece)
            seconds = time.perf_counter() - started
            if seconds > _TURN_SECONDS:
                spent(seconds)
                await asyncio.sleep(0)
                started = time.perf_counter()
        if sum(map(len, made)) <= _LARGE:
            response = Response(b"".join(made), media_type=self._media_type)
        else:
            response = _Long(made, self._media_type)
        spent(time.perf_counter() - started)
        return response


class _Long(Response):
    """Sends a long body piece by piece, without a copy of all of it."""

    def __init__(self, pieces: Sequence[bytes], media_type: str):
        super().__init__(media_type=media_type, headers={"content-length": str(sum(map(len, pieces)))})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
