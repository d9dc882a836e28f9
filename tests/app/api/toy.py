"""Toy: a dialect of no real protocol, and a client of an application that speaks it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from app.annotate import Annotation, Ask
from app.api.dialects.dialect import Route
from app.api.failures import Failure
from app.api.responses import Pieces, json_response
from app.errors import BadRequest, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyAsk(Ask):
    mark: str


class Toy:
    """A text a line, of the model in the path; the answer has a line of labels for each."""

    tag = "toy"
    accepts = ("", "application/toy")

    @property
    def routes(self) -> Sequence[Route]:
        return [
            Route("/toy/{model}/labels", "labels"),
            Route("/toy/{model}/versions/{version}/labels", "labels of a version"),
            Route("/toy/health", "health", "GET", show=self.health),
            Route("/toy/broken", "broken", "GET", show=self.broken),
            Route("/toy/bug", "bug", "GET", show=self.bug),
        ]

    def decode(self, request: Request, media: str, body: bytes) -> ToyAsk:
        if body == b"bug":
            raise ZeroDivisionError("a bug of the dialect's")
        try:
            texts = body.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise BadRequest("no ASCII", "not_ascii") from None
        version = request.path_params.get("version")
        return ToyAsk(
            texts=texts,
            model=request.path_params["model"],
            version=int(version) if version else None,
            labels=request.query_params.getlist("label") or None,
            mark=request.headers.get("toy-mark", "-"),
        )

    def encode(self, ask: ToyAsk, annotation: Annotation) -> Response | Pieces:
        lines = (
            f"{ask.mark} {' '.join(entity.label for entity in prediction.entities)}\n".encode()
            for prediction in annotation.predictions
        )
        return Pieces(lines, "application/toy")

    def encode_error(self, ask: ToyAsk | None, failure: Failure) -> Response:
        about = {"oops": failure.message, "asked": len(ask.texts) if ask else None}
        return json_response(about, failure.status)

    async def health(self, request: Request) -> Response:
        return Response("fine")

    async def broken(self, request: Request) -> Response:
        raise NotFound("nothing here")

    async def bug(self, request: Request) -> Response:
        raise ZeroDivisionError("a bug of the dialect's")


class Client:
    """Asks an application in this process."""

    def __init__(self, app: FastAPI, runner: asyncio.Runner):
        self.app = app
        self._runner = runner
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://toy"
        )

    def post(self, path: str, **sent: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, **sent))

    def get(self, path: str) -> httpx.Response:
        return self._runner.run(self._client.get(path))
