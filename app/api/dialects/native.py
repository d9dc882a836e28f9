"""`POST /ner`: text in, entities out."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from app.api.requests import check_labels, read_content, read_ner_request, read_timeout, render_result
from app.api.responses import DirectRoute, count_answers, option_parameters
from app.api.schemas import NerBatchResponse, NerRequest, NerResponse
from app.api.statuses import documented
from app.api.waiting import answer_of, in_time
from app.engine.decoding.entities import Prediction
from app.errors import FAULTS
from app.manifest import Manifest
from app.metrics import Metrics

router = APIRouter(tags=["ner"], route_class=DirectRoute)

_TEXT = "Angela Merkel visited IBM in New York."

_AT_ONCE = 16
"""Texts that are rendered before other requests have a turn: a millisecond of an article's length each."""


def _request_body() -> dict[str, Any]:
    schema = NerRequest.model_json_schema()
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "examples": {
                    "one text": {"value": {"text": _TEXT}},
                    "several texts": {
                        "value": {
                            "texts": [_TEXT, "Nothing here."],
                            "labels": ["PER"],
                            "min_score": 0.5,
                            "offset_unit": "utf16",
                        }
                    },
                },
            },
            "text/plain": {"schema": {"type": "string"}, "example": _TEXT},
        },
    }


_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds from the request's arrival until it is answered 504 and what has not run "
    "is dropped; the server's `NERVE_REQUEST_TIMEOUT` where not given.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 500,
}


@router.post(
    "/ner",
    summary="Find the entities of a text, or of several",
    response_model=NerResponse | NerBatchResponse,
    responses=documented(400, 404, 409, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra={
        "requestBody": _request_body(),
        "parameters": [*option_parameters(" (With a text/plain body only.)"), _TIMEOUT],
    },
)
async def ner(request: Request) -> Response:
    """Texts of any length are run in overlapping windows; nothing is truncated."""
    seconds = read_timeout(request, request.app.state.settings.request_timeout)
    deadline = None if seconds is None else request.scope["nerve"].started + seconds
    return await in_time(_answer(request, deadline), deadline)


async def _answer(request: Request, deadline: float | None) -> Response:
    state, record = request.app.state, request.scope["nerve"]
    settings, manager, metrics = state.settings, state.manager, state.metrics
    media, body = await read_content(request, settings.max_body_bytes, ("application/json", "text/plain"))
    started = time.perf_counter()
    asked = read_ner_request(request, media, body, settings)
    parse_seconds = time.perf_counter() - started
    name, texts = asked.model or settings.default_model, asked.all_texts

    def key(sticky: str) -> str | None:
        return "\0".join(texts) if sticky == "text" else request.headers.get(sticky)

    lease = manager.lease(name, asked.version, key)
    while lease is None:  # loading takes a while, and others may have pinned something else by then
        await asyncio.to_thread(manager.load_pinned, name, asked.version)
        lease = manager.lease(name, asked.version, key)
    failed: bool | None = None
    try:
        served = lease.loaded
        manifest = served.manifest
        of = record.model, record.version = manifest.name, str(manifest.version)
        check_labels(asked.labels, manifest.labels)
        record.texts, record.characters = len(texts), sum(map(len, texts))
        metrics.stage_seconds.labels(*of, "parse").inc(parse_seconds)
        predictions = await answer_of(served.model.submit(texts, deadline), request.receive)
        manager.shadow(served, texts, predictions)
        response = await _rendered(asked, texts, predictions, manifest, metrics)
        failed = False
        return response
    except Exception as error:
        failed = getattr(error, "kind", "failed") in FAULTS or None
        raise
    finally:
        lease.release(failed)


async def _rendered(
    asked: NerRequest,
    texts: list[str],
    predictions: Sequence[Prediction],
    manifest: Manifest,
    metrics: Metrics,
) -> Response:
    """The answer. Where there are many texts, other requests have their turn in between."""
    of = manifest.name, str(manifest.version)
    stage = metrics.stage_seconds.labels(*of, "render")
    parts = []
    for first in range(0, len(texts), _AT_ONCE):
        if first:
            await asyncio.sleep(0)
        started = time.perf_counter()
        some = slice(first, first + _AT_ONCE)
        pairs = zip(texts[some], predictions[some], strict=True)
        results = [render_result(text, prediction, asked) for text, prediction in pairs]
        count_answers(metrics, of, results)
        parts.append(to_json(results)[1:-1])
        stage.inc(time.perf_counter() - started)
    head = to_json({"model": manifest.name, "version": manifest.version})[:-1]
    if asked.text is not None:
        body = head + b"," + parts[0][1:]
    else:  # it may have megabytes, which every further step would copy
        body = b"".join((head, b',"results":[', b",".join(parts), b"]}"))
    return Response(body, media_type="application/json")
