"""Lines: cuts the body of a stream into lines, reads each line, and writes its answer line."""

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
    error: RequestError | None = None


class LineSplitter:
    """Cuts bytes into lines, which end only with LF or CR LF, because JSON strings and texts may hold the
    other line ends of Unicode.

    Args:
        max_bytes: most bytes of a line; a longer one is dropped and yields None.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._too_long = False
        self._first = True

    def feed(self, piece: bytes) -> Iterator[bytes | None]:
        """Yield the lines that end in this piece; take all before you feed the next piece."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._add(piece[start:end])
            start = end + 1
            yield self._line()
        self._add(piece[start:])

    def end(self) -> Iterator[bytes | None]:
        """Yield the last line if the body does not end with a line end."""
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
    """A number as it was written, so that an `id` keeps every digit in the answer."""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_int=_Digits, parse_float=_Digits, parse_constant=_no_number)


def longest_line(max_text_chars: int) -> int:
    """Return the most bytes of a line: 12 per character (two `\\u` escapes), and 64 KiB for its id."""
    return 12 * max_text_chars + 65_536


def read_record(number: int, line: bytes | None, plain: bool, max_text_chars: int) -> Record | None:
    """Read a line; return None for a blank line of JSON, which needs no answer.

    Args:
        line: None if the line was too long.
        plain: the line is a text, blank or not, and not JSON.
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
