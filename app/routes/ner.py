"""`POST /ner`: text in, entities out."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from app.lifecycle.loading import LoadedVersion
from app.requests import check_labels, read_ner_request, render_result, scores_by_label
from app.routes.answers import documented, json_response
from app.schemas import NerBatchResponse, NerOptions, NerRequest, NerResponse

router = APIRouter(tags=["ner"])

_TEXT = "Angela Merkel visited IBM in New York."


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


def _query_parameters() -> list[dict[str, Any]]:
    fields = NerOptions.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": f"{schema.pop('description')} (With a text/plain body only.)",
            "schema": schema,
        }
        for name, schema in fields.items()
    ]


@router.post(
    "/ner",
    summary="Find the entities of a text, or of several",
    response_model=NerResponse | NerBatchResponse,
    responses=documented(400, 404, 409, 413, 415, 422, 429, 500, 503),
    openapi_extra={"requestBody": _request_body(), "parameters": _query_parameters()},
)
async def ner(request: Request) -> Response:
    """Texts of any length are run in overlapping windows; nothing is truncated."""
    state = request.app.state
    settings, manager = state.settings, state.manager
    asked = await read_ner_request(
        request, settings.max_body_bytes, settings.max_text_chars, settings.max_texts
    )
    name = asked.model or settings.default_model
    texts = [asked.text] if asked.text is not None else asked.texts or []

    def key(sticky: str) -> str | None:
        return "\0".join(texts) if sticky == "text" else request.headers.get(sticky)

    lent = manager.lend(name, asked.version, key)
    while lent is None:  # loading takes a while, and others may have pinned something else by then
        await asyncio.to_thread(manager.load_pinned, name, asked.version)
        lent = manager.lend(name, asked.version, key)
    with lent as served:
        return await _answer(request, asked, texts, served)


async def _answer(request: Request, asked: NerRequest, texts: list[str], served: LoadedVersion) -> Response:
    manifest, record, metrics = served.manifest, request.scope["nerve"], request.app.state.metrics
    of = record.model, record.version = manifest.name, str(manifest.version)
    check_labels(asked.labels, manifest.labels)
    record.texts, record.characters = len(texts), sum(map(len, texts))

    predictions = await asyncio.wrap_future(served.predictor.submit(texts))
    results = [
        render_result(text, prediction, asked) for text, prediction in zip(texts, predictions, strict=True)
    ]
    metrics.texts.labels(*of).inc(len(texts))
    for label, scores in scores_by_label(results).items():
        metrics.entities.labels(*of, label).inc(len(scores))
        observed = metrics.entity_scores.labels(*of, label)
        for score in scores:
            observed.observe(score)
    request.app.state.manager.copy(served, texts, predictions)
    head = {"model": manifest.name, "version": manifest.version}
    return json_response(head | (results[0] if asked.text is not None else {"results": results}))
