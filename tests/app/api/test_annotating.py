"""The seam: a dialect that knows the wire only gets everything else, and its errors have its own shape."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from app.annotate import Annotation, Ask
from app.api.dialects.dialect import Route
from app.api.failures import Failure
from app.api.responses import Pieces, json_response
from app.errors import BadRequest, NotFound
from app.main import create_app
from app.settings import Settings
from tests.servers import until
from tests.tiny import POISON, SPANS, TEXT, write_tiny_version


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


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an application that speaks Toy too."""
    folder: Path = tmp_path_factory.mktemp("toy")
    write_tiny_version(folder / "models")
    settings = Settings(models_dir=folder / "models", threads=1, max_texts=10, max_body_bytes=100_000)
    app = create_app(settings)
    app.router.routes += app.state.annotating.routes_of(Toy())
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        toy = Client(app, runner)
        until(lambda: toy.get("/readyz").status_code == 200)
        yield toy
        runner.run(lifespan.__aexit__(None, None, None))


def test_it_decodes_and_encodes_and_nothing_else(client: Client) -> None:
    answer = client.post("/toy/ner-en/labels", content=f"IBM\nnothing\n{TEXT}", headers={"toy-mark": "!"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/toy")
    assert answer.text == f"! ORG\n! \n! {' '.join(label for _, _, label in SPANS)}\n"
    assert answer.headers["x-request-id"]
    pinned = client.post("/toy/ner-en/versions/1/labels?label=PER", content=TEXT)
    assert pinned.text == "- PER\n"


def test_what_it_annotates_is_counted_under_its_own_route(client: Client) -> None:
    client.post("/toy/ner-en/labels", content="IBM")
    labels = {"route": "/toy/{model}/labels", "model": "ner-en", "version": "1", "status": "200"}
    samples = client.app.state.metrics.samples("nerve_requests_total", **labels)
    assert [sample.value >= 1 for sample in samples] == [True]


CASES: dict[str, tuple[str, dict[str, Any], int, str, int | None]] = {
    "no such model": ("/toy/nope/labels", {"content": "a"}, 404, "nope", 1),
    "no such version": ("/toy/ner-en/versions/9/labels", {"content": "a"}, 404, "no version 9", 1),
    "no such label": ("/toy/ner-en/labels?label=DOG", {"content": "a"}, 422, "no label 'DOG'", 1),
    "not decoded": ("/toy/ner-en/labels", {"content": b"\xff"}, 400, "no ASCII", None),
    "a bug": ("/toy/ner-en/labels", {"content": "bug"}, 500, "ZeroDivisionError", None),
    "a failing batch": ("/toy/ner-en/labels", {"content": POISON}, 500, "fail", 1),
    "too many texts": ("/toy/ner-en/labels", {"content": "a\n" * 10}, 413, "NERVE_MAX_TEXTS", 11),
    "too many bytes": ("/toy/ner-en/labels", {"content": b"a" * 100_001}, 413, "100000 bytes", None),
    "another media type": (
        "/toy/ner-en/labels",
        {"content": "a", "headers": {"Content-Type": "text/plain"}},
        415,
        "text/plain",
        None,
    ),
    "a wrong timeout": (
        "/toy/ner-en/labels",
        {"content": "a", "headers": {"X-Request-Timeout-Ms": "soon"}},
        422,
        "X-Request-Timeout-Ms 'soon'",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_its_errors_have_its_shape(client: Client, case: str) -> None:
    path, sent, status, message, asked = CASES[case]
    answer = client.post(path, **sent)
    assert answer.status_code == status
    assert set(answer.json()) == {"oops", "asked"}
    assert message in answer.json()["oops"]
    assert answer.json()["asked"] == asked


def test_its_other_routes_answer_by_themselves(client: Client) -> None:
    assert client.get("/toy/health").text == "fine"
    answer = client.get("/toy/broken")
    assert (answer.status_code, answer.json()) == (404, {"oops": "nothing here", "asked": None})


def test_it_is_documented(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert paths["/toy/{model}/labels"]["post"]["tags"] == ["toy"]
    assert {"/toy/health", "/ner"} <= set(paths)
