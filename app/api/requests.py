"""Requests: reads bodies within their limits, and says what is wrong with them."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from app.api.arriving import Arriving, Limits
from app.api.room import Share
from app.errors import (
    BadRequest,
    ClientLeft,
    DeadlineExceeded,
    TooLarge,
    Unprocessable,
    UnsupportedMediaType,
    shown,
)
from app.settings import Settings

M = TypeVar("M", bound=BaseModel)

_CHARSET = re.compile(r'charset\s*=\s*"?([^\s";]+)')
_MILLISECONDS = re.compile(r"0{0,9}[1-9][0-9]{0,8}", re.ASCII)

_OTHER_VALUES = 4_096
"""Values of JSON that a body may have beside its texts: options, labels, and the lists they are in."""

_HARMLESS = _OTHER_VALUES
"""A body of so few bytes cannot have too many values."""

_LONGEST_NAME = 100
"""Most characters of a field's name that a message repeats."""

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
        ClientLeft: the caller closed the connection. TooLarge: the body has over `limit` bytes, or more
            values of JSON than any request needs. NoRoom: too many large bodies are being received.
            DeadlineExceeded: it did not come in time.
    """
    media = media_type(request, accepted)
    return media, await _read_body(request, limit, media.endswith("json"))


def media_type(request: Request, accepted: Sequence[str]) -> str:
    """Return the media type of a body that is declared as plain UTF-8.

    Raises:
        UnsupportedMediaType: the type is not in `accepted`, the charset not UTF-8, or it is compressed.
    """
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    media = media.strip().lower()
    if media not in accepted:
        given = shown(media) if media else "is missing"
        raise UnsupportedMediaType(f"Content-Type {given}; send {' or '.join(accepted)}")
    charset = _CHARSET.search(parameters) if parameters else None
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {shown(charset[1])} is not read; send UTF-8")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {shown(encoding)} is not read; send it plain")
    return media


async def _read_body(request: Request, limit: int, is_json: bool) -> bytes:
    """Read the body, no further than its limits."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _limits(limit, None).too_long
    piece, more = await _next_piece(request)
    if not more and len(piece) <= min(limit, _HARMLESS):
        return piece
    state = request.app.state
    seconds = state.settings.body_timeout
    limits = _limits(limit, state.settings.max_texts + _OTHER_VALUES if is_json else None)
    try:
        with Share(state.bodies) as share:
            arriving = Arriving(limits, share)
            async with asyncio.timeout(seconds):
                arriving.add(piece)
                while more:
                    piece, more = await _next_piece(request)
                    arriving.add(piece)
            return arriving.take()
    except TimeoutError:
        raise DeadlineExceeded(
            f"the body was not there in {seconds:g} s (NERVE_BODY_TIMEOUT); send less at once"
        ) from None


async def _next_piece(request: Request) -> tuple[bytes, bool]:
    """Return the next bytes of the body, and whether there are more."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft("the caller hung up before the end of the body")
    return message.get("body", b""), message.get("more_body", False)


def _limits(max_bytes: int, max_values: int | None) -> Limits:
    return Limits(
        name="body",
        max_bytes=max_bytes,
        bytes_remedy=" (NERVE_MAX_BODY_BYTES)",
        code="body_too_large",
        max_values=max_values,
        values_remedy=f" (NERVE_MAX_TEXTS and {_OTHER_VALUES} others); send less at once",
    )


def parse_json(model: type[M], body: bytes) -> M:
    """Parse a body of JSON.

    Raises:
        BadRequest: the body is not UTF-8, or not JSON. Unprocessable: a field is wrong.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    content = decoded(body)  # pydantic does not tell invalid UTF-8 from other errors
    if problems[0]["type"] != "json_invalid":
        raise invalid(problems)
    reason = problems[0]["msg"]
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
        where = ".".join(str(part)[:_LONGEST_NAME] for part in error["loc"] if part != "body")
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "there is no such field"
        problems.append(f"{where}: {message}" if where else message)
    return Unprocessable("; ".join(problems))
