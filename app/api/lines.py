"""Lines: cuts the body of a stream into lines, reads each line, and writes its answer line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pydantic_core

from app.api.arriving import Arriving, Limits
from app.api.dialects.native_schemas import NerRequest
from app.api.room import Share
from app.errors import BadRequest, NerveError, RequestError, TooLarge, Unprocessable

_OPTIONS = frozenset(NerRequest.model_fields) - {"text"}

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """Holds one line of a stream that gets an answer.

    Attributes:
        line: the number of the line, from 1; blank lines count too.
        id: the line's `id` as JSON, which its answer repeats; empty if it has none.
        text: the text to annotate; empty if there is an error.
        error: the reason why the line cannot be annotated.
    """

    line: int
    id: bytes = b""
    text: str = ""
    error: NerveError | None = None


class LineSplitter:
    """Cuts bytes into lines, which end only with LF or CR LF, because JSON strings and texts may hold the
    other line ends of Unicode.

    Args:
        limits: those of a line; a line that exceeds them is dropped and yields the error.
        share: what the line that has begun holds of the room for all that arrives.
    """

    def __init__(self, limits: Limits, share: Share):
        self._begun = Arriving(limits, share)
        self._wrong: NerveError | None = None
        self._first = True

    @property
    def since(self) -> float:
        """Return since when a large line has been coming; 0 if there is none."""
        return self._begun.since

    def feed(self, piece: bytes) -> Iterator[bytes | NerveError]:
        """Yield the lines that end in this piece; take all before you feed the next piece."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._add(piece[start:end])
            start = end + 1
            yield self._line()
        self._add(piece[start:])

    def end(self) -> Iterator[bytes | NerveError]:
        """Yield the last line if the body does not end with a line end."""
        if self._begun or self._wrong:
            yield self._line()

    def _add(self, part: bytes) -> None:
        if self._wrong:
            return
        try:
            self._begun.add(part)
        except NerveError as error:
            self._wrong = error
            self._begun.clear()

    def _line(self) -> bytes | NerveError:
        wrong, first = self._wrong, self._first
        self._wrong, self._first = None, False
        if wrong:
            return wrong
        line = self._begun.take().removesuffix(b"\r")
        return line.removeprefix(_BOM) if first else line


class _Digits(str):
    """A number as it was written, so that an `id` keeps every digit in the answer."""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_int=_Digits, parse_float=_Digits, parse_constant=_no_number)


_MAX_VALUES = 20_000
"""Most values of JSON in a line, which may have fields that nobody reads. So many take about 10 ms."""


def line_limits(max_text_chars: int, plain: bool) -> Limits:
    """Return the limits of a line: 12 bytes per character (two `\\u` escapes) and 64 KiB for its id.

    Args:
        plain: the line is a text and not JSON.
    """
    return Limits(
        name="line",
        max_bytes=12 * max_text_chars + 65_536,
        bytes_remedy="; see NERVE_MAX_TEXT_CHARS",
        code="line_too_long",
        max_values=None if plain else _MAX_VALUES,
        values_remedy="; leave out the fields that are not read",
    )


def read_record(number: int, line: bytes | NerveError, plain: bool, max_text_chars: int) -> Record | None:
    """Read a line; return None for a blank line of JSON, which needs no answer.

    Args:
        line: the error if the line was dropped.
        plain: the line is a text, blank or not, and not JSON.
    """
    if isinstance(line, NerveError):
        return Record(number, error=line)
    if not plain and not line.strip():
        return None
    identity = b""
    try:
        try:
            content = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the line is not UTF-8 (byte {error.start})", "invalid_utf8") from None
        text: object = content
        if not plain:
            fields = _fields(content)
            identity = _identity(fields)
            text = _text(fields)
        assert isinstance(text, str)
        if len(text) > max_text_chars:
            raise TooLarge(
                f"the text has {len(text)} characters, a text may have {max_text_chars} "
                "(NERVE_MAX_TEXT_CHARS)",
                "text_too_long",
            )
        return Record(number, identity, text)
    except RequestError as error:
        return Record(number, identity, error=error)


def _fields(content: str) -> dict[str, object]:
    try:
        value = _DECODER.decode(content)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, column {error.colno}"
        raise BadRequest(f"the line is not JSON: {where}", "invalid_json") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the line is not JSON: {error}", "invalid_json") from None
    if not isinstance(value, dict):
        raise Unprocessable('the line is no JSON object; send {"text": "..."}')
    return value


def _identity(fields: dict[str, object]) -> bytes:
    if "id" not in fields:
        return b""
    value = fields["id"]
    if isinstance(value, _Digits):
        return value.encode()
    if value is None or isinstance(value, str | bool):
        return pydantic_core.to_json(_whole("id", value) if isinstance(value, str) else value)
    raise Unprocessable("id: should be a string, a number, true, false or null")


def _text(fields: dict[str, object]) -> str:
    text = fields.get("text")
    if type(text) is not str:
        problem = "should be a string" if "text" in fields else "is missing"
        raise Unprocessable(f"text: {problem}")
    for name in _OPTIONS & fields.keys():
        raise Unprocessable(f"{name}: not a line's; a stream's options are its query parameters")
    return _whole("text", text)


def _whole(name: str, value: str) -> str:
    """Return a string if it can be encoded as UTF-8; raise Unprocessable for half a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Unprocessable(
            f"{name}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; send the "
            "whole pair, or U+FFFD",
            "lone_surrogate",
        ) from None
    return value


def answer_line(about: dict[str, Any], identity: bytes = b"") -> bytes:
    """Return a line of the answer with the `id` of its request line.

    Other line ends of Unicode are escaped, because some readers split lines at them.
    """
    return line_of(pydantic_core.to_json(about), identity)


def line_of(line: bytes, identity: bytes) -> bytes:
    """Do what `answer_line` does with an object that is JSON already."""
    for character in "\x85\u2028\u2029":
        line = line.replace(character.encode(), b"\\u%04x" % ord(character))
    return (b'{"id":' + identity + b"," + line[1:] if identity else line) + b"\n"
