"""Requests: reads bodies within their limits, and says what is wrong with them."""

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.errors import (
    BadRequest,
    ClientLeft,
    TooLarge,
    Unprocessable,
    UnsupportedMediaType,
    shown,
)
from app.settings import Settings

M = TypeVar("M", bound=BaseModel)

_CHARSET = re.compile(r'charset\s*=\s*"?([^\s";]+)')
_MILLISECONDS = re.compile(r"0{0,9}[1-9][0-9]{0,8}", re.ASCII)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_limits(texts: Sequence[str], settings: Settings) -> None:
    """Raise TooLarge for more texts or characters than a request may hold, or for too long a text."""
    if len(texts) > settings.max_texts:
        raise TooLarge(
            f"{len(texts)} texts, a request may hold {settings.max_texts} (NERVE_MAX_TEXTS)",
            "too_many_texts",
        )
    characters = 0
    for number, text in enumerate(texts):
        characters += len(text)
        if len(text) > settings.max_text_chars:
            raise TooLarge(
                f"text {number} has {len(text)} characters, a text may have {settings.max_text_chars} "
                "(NERVE_MAX_TEXT_CHARS)",
                "text_too_long",
            )
    if characters > settings.max_request_chars:
        raise TooLarge(
            f"the texts have {characters} characters, a request may have {settings.max_request_chars} "
            "(NERVE_MAX_REQUEST_CHARS); send several requests, or use /ner/stream",
            "request_too_long",
        )


def read_timeout(request: Request, limit: float) -> float | None:
    """Return the seconds that a request may take, None for any: `X-Request-Timeout-Ms`, at most `limit`.

    Args:
        limit: the operator's limit, in seconds; 0 is none.

    Raises:
        Unprocessable: the header is not a positive whole number.
    """
    given = request.headers.get("x-request-timeout-ms")
    if given is None:
        return limit or None
    if not _MILLISECONDS.fullmatch(given):
        raise Unprocessable(
            f"X-Request-Timeout-Ms {shown(given)}: send a whole number of milliseconds from 1 to 999999999"
        )
    seconds = int(given) / 1000
    return min(seconds, limit) if limit else seconds


async def read_content(request: Request, limit: int, accepted: Sequence[str]) -> tuple[str, bytes]:
    """Return the media type of a body (see `media_type`) and its bytes.

    Raises:
        ClientLeft: the caller closed the connection. TooLarge: the body has over `limit` bytes.
    """
    return media_type(request, accepted), await _read_body(request, limit)


def media_type(request: Request, accepted: Sequence[str]) -> str:
    """Return the media type of a body that is declared as plain UTF-8.

    Raises:
        UnsupportedMediaType: the type is not in `accepted`, the charset not UTF-8, or it is compressed.
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
    """Read the body, no further than the limit."""
    too_large = f"the body has more than {limit} bytes (NERVE_MAX_BODY_BYTES)"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge(too_large)
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the caller hung up before the end of the body")
        pieces.append(message.get("body", b""))
        size, more = size + len(pieces[-1]), message.get("more_body", False)
        if size > limit:
            raise TooLarge(too_large)
    return b"".join(pieces)


def parse_json(model: type[M], body: bytes) -> M:
    """Parse a body of JSON.

    Raises:
        BadRequest: the body is not UTF-8, or not JSON. Unprocessable: a field is wrong.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problem = error
    content = decoded(body)  # pydantic does not tell invalid UTF-8 from other errors
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


def decoded(body: bytes) -> str:
    """Decode a body of plain text. Raise BadRequest if it is not UTF-8."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})", "invalid_utf8") from None


def invalid(errors: Any) -> Unprocessable:
    """Return the error for a body with wrong fields; it names them, but never repeats a text."""
    problems = []
    for error in errors[:5]:
        where = ".".join(str(part) for part in error["loc"] if part != "body")
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "there is no such field"
        problems.append(f"{where}: {message}" if where else message)
    return Unprocessable("; ".join(problems))
