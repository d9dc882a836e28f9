"""Native: the dialect of `POST /ner`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from app.annotate import Annotation, Ask
from app.api.dialects.dialect import Route
from app.api.dialects.native_schemas import NerBatchResponse, NerOptions, NerRequest, NerResponse
from app.api.documentation import component
from app.api.failures import Failure, error_response
from app.api.requests import decoded, invalid, parse_json
from app.api.responses import Pieces
from app.api.statuses import documented
from app.engine.decoding.entities import MANY, Prediction
from app.errors import Unprocessable
from app.rendering import OffsetUnit, render, render_gradually

_TEXT = "Angela Merkel visited IBM in New York."

_AT_ONCE = 16
"""Texts of one piece of an answer: rendering that many articles takes about 1 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeAsk(Ask):
    """Holds what a request of `POST /ner` asks.

    Attributes:
        offset_unit: the unit of offsets.
        agreement: whether each entity gets the share of an ensemble's members that found it.
        single: whether the request has `text` and not `texts`.
    """

    offset_unit: OffsetUnit
    agreement: bool
    single: bool


class Native:
    """Reads JSON with options, or plain text with options in the query; answers in JSON."""

    tag = "ner"
    accepts = ("application/json", "text/plain")

    @property
    def routes(self) -> Sequence[Route]:
        """Return the route `/ner` with its documentation."""
        documentation = {
            "summary": "Find the entities of a text, or of several",
            "description": "Texts of any length are run in overlapping windows; nothing is truncated.",
            "response_model": NerResponse | NerBatchResponse,
            "responses": documented(404, 409, 413, 415, 422, 504),
            "openapi_extra": {
                "requestBody": _request_body(),
                "parameters": [*option_parameters(" (With a text/plain body only.)"), _TIMEOUT],
            },
        }
        return [Route("/ner", "ner", documentation=documentation)]

    def decode(self, request: Request, media: str, body: bytes) -> NativeAsk:
        """Return what a body of JSON or plain text asks.

        Raises:
            BadRequest: the body is not UTF-8, or not JSON. Unprocessable: a field is wrong.
        """
        if media == "text/plain":
            return _ask(query_options(request), [decoded(body)], single=True)
        if request.scope["query_string"] and request.query_params:
            raise Unprocessable(
                "query parameters go with text/plain; with JSON, options are fields of the body"
            )
        asked = parse_json(NerRequest, body)
        return _ask(asked, asked.all_texts, single=asked.text is not None)

    def encode(self, ask: NativeAsk, annotation: Annotation) -> Response | Pieces:
        """Return model and version with the result of `text`, or with the results of `texts`."""
        head = to_json({"model": annotation.model, "version": annotation.version})[:-1]
        if not ask.single:
            return Pieces(_results(head + b',"results":[', ask, annotation))
        text, prediction = annotation.texts[0], annotation.predictions[0]
        if len(prediction.entities) > MANY:
            return Pieces(_result(head, ask, text, prediction))
        body = to_json(ner_result(text, prediction, ask))
        return Response(head + b"," + body[1:], media_type="application/json")

    def encode_error(self, ask: NativeAsk | None, failure: Failure) -> Response:
        """Return the error body of every native route."""
        return error_response(failure)


def _ask(options: NerOptions, texts: Sequence[str], single: bool) -> NativeAsk:
    return NativeAsk(
        texts=texts,
        model=options.model,
        version=options.version,
        labels=options.labels,
        min_score=options.min_score,
        offset_unit=options.offset_unit,
        agreement=options.agreement,
        single=single,
    )


def ask_of(options: NerOptions) -> NativeAsk:
    """Return what a stream asks; its texts come later."""
    return _ask(options, (), single=False)


def _result(head: bytes, ask: NativeAsk, text: str, prediction: Prediction) -> Iterator[bytes]:
    """Make the body of an answer to one text, piece by piece."""
    pieces = ner_result_gradually(text, prediction, ask)
    yield head + b"," + next(pieces)[1:]
    yield from pieces


def _results(head: bytes, ask: NativeAsk, annotation: Annotation) -> Iterator[bytes]:
    """Make the body of an answer to several texts, piece by piece."""
    texts, predictions = annotation.texts, annotation.predictions
    for first in range(0, max(1, len(texts)), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        pairs = list(zip(texts[some], predictions[some], strict=True))
        yield b"," if first else head
        if sum(len(prediction.entities) for _, prediction in pairs) <= MANY:
            yield to_json([ner_result(text, prediction, ask) for text, prediction in pairs])[1:-1]
            continue
        for number, (text, prediction) in enumerate(pairs):
            yield b"," if number else b""
            yield from ner_result_gradually(text, prediction, ask)
    yield b"]}"


def ner_result(text: str, prediction: Prediction, ask: NativeAsk) -> dict[str, Any]:
    """Return the result of one text in an answer."""
    return {
        "windows": prediction.windows,
        "entities": render(text, prediction.entities, ask.offset_unit, ask.agreement),
    }


def ner_result_gradually(text: str, prediction: Prediction, ask: NativeAsk) -> Iterator[bytes]:
    """Make the JSON of `ner_result`, piece by piece."""
    yield to_json({"windows": prediction.windows})[:-1] + b',"entities":['
    comma = b""
    for some in render_gradually(text, prediction.entities, ask.offset_unit, ask.agreement):
        yield comma + to_json(some)[1:-1]
        comma = b","
    yield b"]}"


def query_options(request: Request) -> NerOptions:
    """Read options from query parameters; `labels` may be repeated or separated by commas.

    Raises:
        Unprocessable: an option is unknown, of the wrong kind, or given twice.
    """
    values: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        if key == "labels":
            values.setdefault(key, []).extend(part for part in value.split(",") if part)
        elif key in values:
            raise Unprocessable(f"{key}: given twice")
        else:
            values[key] = value
    try:
        return NerOptions.model_validate(values, strict=False)
    except ValidationError as error:
        raise invalid(error.errors()) from None


# documentation


def option_parameters(note: str = "") -> list[dict[str, Any]]:
    """Return the options of `NerOptions` as query parameters for a route's documentation.

    Args:
        note: text added to each description.
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


_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds from the request's arrival until it is answered 504 and what has not run "
    "is dropped. It can only shorten the server's `NERVE_REQUEST_TIMEOUT`, which holds where not given.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "example": 500,
}


def _request_body() -> dict[str, Any]:
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": component(NerRequest),
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
