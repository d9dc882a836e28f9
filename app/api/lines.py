"""Lines: a body in pieces is cut into lines; what each line of a stream asks, and the line it gets."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pydantic_core

from app.api.dialects.native_schemas import NerRequest
from app.errors import BadRequest, RequestError, TooLarge, Unprocessable

_OPTIONS = frozenset(NerRequest.model_fields) - {"text"}

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """One line of a stream that wants an answer.

    Attributes:
        line: its number, from 1; every line counts, also a blank one.
        id: its `id` as JSON, which comes back with the answer; empty where it has none.
        text: what to annotate; empty where there is an error.
        error: why it cannot be annotated.
    """

    line: int
    id: bytes = b""
    text: str = ""
    error: RequestError | None = None


class LineSplitter:
    """Cuts bytes into lines, which end with LF or CR LF and with nothing else: JSON strings and texts may
    hold every other character that Unicode calls a line's end.

    Args:
        max_bytes: a longer line is never held; None comes in its place.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._too_long = False
        self._first = True

    def feed(self, piece: bytes) -> Iterator[bytes | None]:
        """The lines that end in this piece. Take them all before the next one is fed."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._add(piece[start:end])
            start = end + 1
            yield self._line()
        self._add(piece[start:])

    def end(self) -> Iterator[bytes | None]:
        """The last line, if the body does not end with a line's end."""
        if self._begun or self._too_long:
            yield self._line()

    def _add(self, part: bytes) -> None:
        if self._too_long or len(self._begun) + len(part) > self._max_bytes:
            self._too_long = True
            self._begun.clear()
        else:
            self._begun += part

    def _line(self) -> bytes | None:
        line = None if self._too_long else bytes(self._begun).removesuffix(b"\r")
        if self._first and line:
            line = line.removeprefix(_BOM)
        self._begun.clear()
        self._too_long = self._first = False
        return line


class _Digits(str):
    """A number as it was written, so that an `id` comes back with every digit."""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_int=_Digits, parse_float=_Digits, parse_constant=_no_number)


def longest_line(max_text_chars: int) -> int:
    """Bytes of the longest line of a stream: its text with every character as two `\\u` escapes, its id."""
    return 12 * max_text_chars + 65_536


def read_record(number: int, line: bytes | None, plain: bool, max_text_chars: int) -> Record | None:
    """What a line asks; None for a blank one, which asks nothing.

    Args:
        line: None for one that was too long to be held.
        plain: it is the text itself, blank or not, and no JSON.
    """
    if line is None:
        error = f"the line has more than {longest_line(max_text_chars)} bytes; see NERVE_MAX_TEXT_CHARS"
        return Record(number, error=TooLarge(error, "line_too_long"))
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
    """A string that is one in every encoding."""
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
    """A line of the answer, with the `id` that was asked with.

    Some readers end lines where Unicode does: such characters are escaped.
    """
    line = pydantic_core.to_json(about)
    for character in "\x85\u2028\u2029":
        line = line.replace(character.encode(), b"\\u%04x" % ord(character))
    return (b'{"id":' + identity + b"," + line[1:] if identity else line) + b"\n"
