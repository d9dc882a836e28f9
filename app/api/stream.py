"""Stream: the route `POST /ner/stream`; `app.api.streaming` answers it."""

from fastapi import APIRouter, Request, Response

from app.api.dialects.native import ask_of, option_parameters, query_options
from app.api.requests import media_type
from app.api.responses import DirectRoute
from app.api.statuses import documented
from app.api.streaming import NDJSON, Stream
from app.errors import NotReady

router = APIRouter(tags=["ner"], route_class=DirectRoute)

_ACCEPTED = (NDJSON, "application/ndjson", "application/jsonl", "text/plain")


_BODY = {
    "required": True,
    "content": {
        NDJSON: {
            "schema": {
                "type": "object",
                "description": "Of each line. Other fields are ignored.",
                "required": ["text"],
                "properties": {
                    "text": {"type": "string", "description": "What to annotate."},
                    "id": {
                        "type": ["string", "number", "boolean", "null"],
                        "description": "Comes back with the answer, as it was written.",
                    },
                },
            },
            "example": '{"id": 1, "text": "Angela Merkel visited IBM in New York."}\n',
        },
        "text/plain": {
            "schema": {"type": "string", "description": "A text a line."},
            "example": "Angela Merkel visited IBM in New York.\n",
        },
    },
}

_ANSWER = {
    "description": "A line for each line, in order: its `id`, if it has one, with `windows` and `entities` "
    "as `POST /ner` has them, or with `error`, `code` and `line`, the number of the wrong line. The "
    "last line has `done`: true when all was answered, false with `error` and `code` when the stream was "
    "ended before, and `line`, the last one that was answered. An answer without it was cut off.",
    "headers": {
        "X-Nerve-Model": {"description": "The model that answers.", "schema": {"type": "string"}},
        "X-Nerve-Version": {
            "description": "The version that answers all lines.",
            "schema": {"type": "integer"},
        },
    },
    "content": {
        NDJSON: {
            "schema": {"type": "string"},
            "example": '{"id":1,"windows":1,"entities":[{"text":"IBM","label":"ORG","start":22,"end":25,'
            '"score":0.9987}]}\n{"done":true,"records":1,"failed":0,"line":1}\n',
        }
    },
}


@router.post(
    "/ner/stream",
    summary="Find the entities of any number of texts, a line each",
    response_class=Response,
    responses={200: _ANSWER, **documented(404, 409, 415, 422)},
    openapi_extra={"requestBody": _BODY, "parameters": option_parameters()},
)
async def stream(request: Request) -> Response:
    """Lines are answered as they come, while the body is still being sent; it may be of any length."""
    plain = media_type(request, _ACCEPTED) == "text/plain"
    ask = ask_of(query_options(request))
    if request.app.state.draining.is_set():
        raise NotReady("the server is shutting down; send the stream again", "shutting_down")
    return Stream(request, ask, plain)
