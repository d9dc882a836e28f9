"""Requests: reading a body within its limit, and the offsets of an answer in the caller's unit."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.api.schemas import NerOptions, NerRequest, OffsetUnit
from app.engine.decoding.entities import Prediction
from app.errors import BadRequest, ClientLeft, TooLarge, Unprocessable, UnsupportedMediaType
from app.settings import Settings

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_CHARSET = re.compile(r'charset\s*=\s*"?([^\s";]+)')
_MILLISECONDS = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_ner_request(request: Request, media: str, body: bytes, settings: Settings) -> NerRequest:
    """The request of `POST /ner`, from a body of JSON or plain text.

    Raises:
        BadRequest: not UTF-8, or not JSON. TooLarge: over a limit. Unprocessable: a field is wrong.
    """
    if media == "text/plain":
        options = _checked(lambda: query_options(request))
        parsed = NerRequest.model_construct(text=_decoded(body), texts=None, **dict(options))
    else:
        if request.scope["query_string"] and request.query_params:
            raise Unprocessable(
                "query parameters go with text/plain; with JSON, options are fields of the body"
            )
        parsed = parse_json(NerRequest, body)

    texts = parsed.all_texts
    if len(texts) > settings.max_texts:
        raise TooLarge(
            f"{len(texts)} texts, a request may hold {settings.max_texts} (NERVE_MAX_TEXTS)",
            "too_many_texts",
        )
    for number, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            raise TooLarge(
                f"text {number} has {len(text)} characters, a text may have {settings.max_text_chars} "
                "(NERVE_MAX_TEXT_CHARS)",
                "text_too_long",
            )
    return parsed


def read_timeout(request: Request, default: float) -> float | None:
    """Seconds that a request may take: its `X-Request-Timeout-Ms`, else `default`; None is no limit.

    Raises:
        Unprocessable: the header is no positive whole number.
    """
    given = request.headers.get("x-request-timeout-ms")
    if given is None:
        return default or None
    if not _MILLISECONDS.fullmatch(given):
        raise Unprocessable(
            f"X-Request-Timeout-Ms {given!r}: send a whole number of milliseconds from 1 to 999999999"
        )
    return int(given) / 1000


async def read_content(request: Request, limit: int, accepted: Sequence[str]) -> tuple[str, bytes]:
    """The media type of a body, and the body, which says that it is UTF-8; see `media_type`.

    Raises:
        ClientLeft: the caller hung up before its end. TooLarge: over `limit` bytes.
    """
    return media_type(request, accepted), await _read_body(request, limit)


def media_type(request: Request, accepted: Sequence[str]) -> str:
    """The media type of a body that is plain UTF-8.

    Raises:
        UnsupportedMediaType: none of `accepted`, another charset than UTF-8, or compressed.
    """
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    media = media.strip().lower()
    if media not in accepted:
        raise UnsupportedMediaType(f"Content-Type {media or 'is missing'}; send {' or '.join(accepted)}")
    charset = _CHARSET.search(parameters) if parameters else None
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {charset[1]} is not read; send UTF-8")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding} is not read; send it plain")
    return media


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, read no further than the limit."""
    too_large = f"the body has more than {limit} bytes (NERVE_MAX_BODY_BYTES)"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge(too_large)
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the caller hung up before the end of the body")
        chunks.append(message.get("body", b""))
        size, more = size + len(chunks[-1]), message.get("more_body", False)
        if size > limit:
            raise TooLarge(too_large)
    return b"".join(chunks)


def parse_json(model: type[M], body: bytes) -> M:
    """A body of JSON.

    Raises:
        BadRequest: it is not UTF-8, or no JSON. Unprocessable: a field is wrong.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problem = error
    content = _decoded(body)  # the library tells no more of wrong bytes than of any other character
    if problem.errors()[0]["type"] != "json_invalid":
        raise invalid(problem.errors())
    reason = problem.errors()[0]["msg"]
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


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})", "invalid_utf8") from None


def query_options(request: Request) -> NerOptions:
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


def check_labels(wanted: Sequence[str] | None, known: tuple[str, ...]) -> None:
    """Raises Unprocessable for a label that the model does not have."""
    for label in wanted or ():
        if label not in known:
            raise Unprocessable(
                f"labels: the model has no label {label!r} (it has {', '.join(known)})",
                "unknown_label",
            )


def render_result(text: str, prediction: Prediction, options: NerOptions) -> dict[str, Any]:
    """One text's part of an answer: what was asked for, in the unit asked for."""
    least, labels, agreement = options.min_score, options.labels, options.agreement
    wanted = [e for e in prediction.entities if e.score >= least and (labels is None or e.label in labels)]
    position = positions(text, options.offset_unit) if wanted else int
    entities = []
    for entity in wanted:
        start, end = entity.start, entity.end
        body = {
            "text": text[start:end],
            "label": entity.label,
            "start": position(start),
            "end": position(end),
            "score": round(entity.score, 4),
        }
        if agreement:
            body["agreement"] = _rounded(entity.agreement)
        entities.append(body)
    return {"windows": prediction.windows, "entities": entities}


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def positions(text: str, unit: OffsetUnit) -> Callable[[int], int]:
    """From an offset in code points to one in `unit`."""
    if unit == "codepoint" or text.isascii():
        return int
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    if unit == "utf16":
        widths = 1 + (codes > 0xFFFF)
    else:
        widths = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF).astype(np.int64)
    ends = np.concatenate(([0], np.cumsum(widths)))
    return lambda at: int(ends[at])
