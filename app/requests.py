"""Requests: reading a body within its limit, and the offsets of an answer in the caller's unit."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.engine.predictor import Prediction
from app.errors import BadRequest, TooLarge, Unprocessable, UnsupportedMediaType
from app.schemas import NerOptions, NerRequest, OffsetUnit

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


async def read_ner_request(
    request: Request, max_body_bytes: int, max_text_chars: int, max_texts: int
) -> NerRequest:
    """The request of `POST /ner`, from JSON or plain text.

    Raises:
        BadRequest: not UTF-8, or not JSON. TooLarge: over a limit.
        UnsupportedMediaType: neither JSON nor plain text. Unprocessable: a field is wrong.
    """
    media, content = await read_content(request, max_body_bytes, ("application/json", "text/plain"))
    if media == "text/plain":
        options = _checked(lambda: _options(request))
        parsed = NerRequest.model_construct(text=content, texts=None, **dict(options))
    else:
        if request.query_params:
            raise Unprocessable(
                "query parameters go with text/plain; with JSON, options are fields of the body"
            )
        parsed = parse_json(NerRequest, content)

    texts = [parsed.text] if parsed.text is not None else parsed.texts or []
    if len(texts) > max_texts:
        raise TooLarge(
            f"{len(texts)} texts, a request may hold {max_texts} (NERVE_MAX_TEXTS)",
            "too_many_texts",
        )
    for number, text in enumerate(texts):
        if len(text) > max_text_chars:
            raise TooLarge(
                f"text {number} has {len(text)} characters, a text may have {max_text_chars} "
                "(NERVE_MAX_TEXT_CHARS)",
                "text_too_long",
            )
    return parsed


async def read_content(request: Request, limit: int, accepted: Sequence[str]) -> tuple[str, str]:
    """The media type and the text of a body.

    Raises:
        BadRequest: not UTF-8. TooLarge: over `limit` bytes.
        UnsupportedMediaType: none of `accepted`, another charset than UTF-8, or compressed.
    """
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    media = media.strip().lower()
    if media not in accepted:
        raise UnsupportedMediaType(f"Content-Type {media or 'is missing'}; send {' or '.join(accepted)}")
    charset = re.search(r'charset\s*=\s*"?([^\s";]+)', parameters)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset[1]} is not read; send UTF-8")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding} is not read; send it plain")
    body = await _read_body(request, limit)
    try:
        return media, body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})", "invalid_utf8") from None


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, read no further than the limit."""
    chunks = bytearray()
    too_large = TooLarge(f"the body has more than {limit} bytes (NERVE_MAX_BODY_BYTES)")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > limit:
            raise too_large
    return bytes(chunks)


def parse_json(model: type[M], content: str) -> M:
    """A body of JSON.

    Raises:
        BadRequest: it is no JSON. Unprocessable: a field is wrong.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise invalid(error.errors()) from None
        reason = error.errors()[0]["msg"]
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        raise BadRequest(f"the body is not JSON: {reason}", "invalid_json") from None
    if _SURROGATE.search(content):
        raise Unprocessable(
            "a string holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; "
            "send the whole pair, or U+FFFD",
            "lone_surrogate",
        )
    raise BadRequest(f"the body is not JSON: {reason}", "invalid_json")


def _options(request: Request) -> NerOptions:
    """Options from query parameters; `labels` may be repeated or separated by commas."""
    values: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        if key == "labels":
            values.setdefault(key, []).extend(part for part in value.split(",") if part)
        elif key in values:
            raise Unprocessable(f"{key}: given twice")
        else:
            values[key] = value
    return NerOptions.model_validate(values, strict=False)


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValidationError as error:
        raise invalid(error.errors()) from None


def invalid(errors: Any) -> Unprocessable:
    """The error of a body that has the wrong fields; names each, and never repeats a text."""
    problems = []
    for error in errors[:5]:
        where = ".".join(str(part) for part in error["loc"] if part != "body")
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "there is no such field"
        problems.append(f"{where}: {message}" if where else message)
    return Unprocessable("; ".join(problems))


def check_labels(wanted: list[str] | None, known: tuple[str, ...]) -> None:
    """Raises Unprocessable for a label that the model does not have."""
    for label in wanted or ():
        if label not in known:
            raise Unprocessable(
                f"labels: the model has no label {label!r} (it has {', '.join(known)})",
                "unknown_label",
            )


def render_result(text: str, prediction: Prediction, options: NerOptions) -> dict[str, Any]:
    """One text's part of an answer: what was asked for, in the unit asked for."""
    entities = [
        entity
        for entity in prediction.entities
        if entity.score >= options.min_score and (options.labels is None or entity.label in options.labels)
    ]
    position = positions(text, options.offset_unit) if entities else (lambda at: at)
    return {
        "windows": prediction.windows,
        "entities": [
            {
                "text": text[entity.start : entity.end],
                "label": entity.label,
                "start": position(entity.start),
                "end": position(entity.end),
                "score": round(entity.score, 4),
                **({"agreement": _rounded(entity.agreement)} if options.agreement else {}),
            }
            for entity in entities
        ],
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def positions(text: str, unit: OffsetUnit) -> Callable[[int], int]:
    """From an offset in code points to one in `unit`."""
    if unit == "codepoint" or text.isascii():
        return lambda at: at
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    if unit == "utf16":
        widths = 1 + (codes > 0xFFFF)
    else:
        widths = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF).astype(np.int64)
    ends = np.concatenate(([0], np.cumsum(widths)))
    return lambda at: int(ends[at])


def scores_by_label(results: list[dict[str, Any]]) -> Mapping[str, list[float]]:
    """The scores of an answer's entities, by label."""
    scores: dict[str, list[float]] = {}
    for result in results:
        for entity in result["entities"]:
            scores.setdefault(entity["label"], []).append(entity["score"])
    return scores
