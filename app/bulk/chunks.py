"""Chunks: records that are sent to the predictor at once, with what of each must come out again.

A record that cannot be read is no error here but a `Reject` in its chunk, so that it stays in order with
the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pydantic_core import to_json

from app.bulk.lines import Position

ENTITIES = "entities"
"""The field or column that is added; one of this name in the input is replaced."""

CHUNK_TEXTS = 512
CHUNK_CHARACTERS = 1 << 17
CHUNK_SIZE = 1 << 22
"""A chunk ends with the text, the character of texts, or the character of whole records that reaches one
of these. They are sorted by length as a whole, and in 128 there are hardly enough of a length."""

_SHOWN = 1_000
"""Characters of a bad record that are kept."""


class Record(NamedTuple):
    """One record as it was read.

    Attributes:
        number: of its first line, or of its row; from 1.
        kept: what must come out again, as its reader's rows have it.
        size: about how many characters that is.
    """

    number: int
    text: str
    kept: Any
    size: int


class Reject(NamedTuple):
    """A record that is set aside.

    Attributes:
        number: as a record's.
        code: what is wrong, for programs.
        reason: the same for people.
        record: the record itself, or as much of it as is kept.
    """

    number: int
    code: str
    reason: str
    record: str


class Rows(Protocol):
    """What must come out again of a chunk's records, in the form that each kind of output wants."""

    def objects(self) -> list[bytes]:
        """A JSON object a record, without its last brace."""
        ...

    def cells(self) -> list[list[str]]:
        """The columns of a record, as CSV has them."""
        ...

    def batch(self) -> Any:
        """All of them as a `pyarrow.RecordBatch`."""
        ...

    def take(self, places: Sequence[int]) -> "Rows":
        """Some of them."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Records that follow one another.

    Attributes:
        numbers, texts, rows: of each record that could be read.
        rejects: the others.
        end: where the input goes on.
        characters: of the texts.
        size: characters of all that is kept, about.
    """

    numbers: list[int]
    texts: list[str]
    rows: Rows
    rejects: list[Reject]
    end: Position
    characters: int
    size: int


class Reader(Protocol):
    """An input that is read once, from the start or from a position.

    Attributes:
        unit: what is counted, `line` or `row`.
        columns: what each record has beside its entities; None where each may have others.
        schema: the same as a `pyarrow.Schema`, for Parquet.
        total: what `progress` comes to; None where it cannot be known.
    """

    unit: str
    columns: list[str] | None
    schema: Any
    total: int | None

    @property
    def progress(self) -> int:
        """How far it has been read: bytes of the file, or rows of Parquet."""
        ...

    def chunks(self, start: Position) -> Iterator[Chunk]:
        """All records from there on."""
        ...


class TableRows:
    """Rows of columns that are all text."""

    def __init__(self, columns: Sequence[str], rows: Sequence[list[str]]):
        self._columns = columns
        self._rows = list(rows)

    def objects(self) -> list[bytes]:
        return [to_json(dict(zip(self._columns, row, strict=True)))[:-1] for row in self._rows]

    def cells(self) -> list[list[str]]:
        return self._rows

    def batch(self) -> Any:
        from app.bulk.parquet import text_batch

        return text_batch(self._columns, self._rows)

    def take(self, places: Sequence[int]) -> "TableRows":
        return TableRows(self._columns, [self._rows[place] for place in places])


class JsonRows:
    """JSON objects as they were read, byte for byte."""

    def __init__(self, objects: Sequence[bytes]):
        self._objects = list(objects)

    def objects(self) -> list[bytes]:
        return self._objects

    def cells(self) -> list[list[str]]:
        raise NotImplementedError("JSONL has no fixed columns; `make_writer` refuses it")

    def batch(self) -> Any:
        raise NotImplementedError("JSONL has no fixed columns; `make_writer` refuses it")

    def take(self, places: Sequence[int]) -> "JsonRows":
        return JsonRows([self._objects[place] for place in places])


def gather(
    records: Iterator[Record | Reject], position: Callable[[], Position], rows: Callable[[list[Any]], Rows]
) -> Iterator[Chunk]:
    """Records in chunks; the last may be small, and one long text may be a chunk of its own."""
    good: list[Record] = []
    rejects: list[Reject] = []
    characters = size = 0

    def chunk() -> Chunk:
        numbers, texts = [record.number for record in good], [record.text for record in good]
        kept = rows([record.kept for record in good])
        return Chunk(numbers, texts, kept, rejects, position(), characters, size)

    for record in records:
        if isinstance(record, Reject):
            rejects.append(record)
        else:
            good.append(record)
            characters += len(record.text)
            size += record.size
        many = len(good) + len(rejects) >= CHUNK_TEXTS
        if many or characters >= CHUNK_CHARACTERS or size >= CHUNK_SIZE:
            yield chunk()
            good, rejects, characters, size = [], [], 0, 0
    if good or rejects:
        yield chunk()


def reject(number: int, code: str, reason: str, record: str) -> Reject:
    """A record set aside, with no more of it than is kept."""
    return Reject(number, code, reason, record[:_SHOWN])


def not_utf8(error: UnicodeDecodeError) -> tuple[str, str]:
    """Code and reason of a record that is no UTF-8."""
    return "invalid_utf8", f"not UTF-8 (byte {error.start} of its line)"


def too_long(characters: int, limit: int) -> tuple[str, str]:
    """Code and reason of a text that is too long."""
    return (
        "text_too_long",
        f"the text has {characters} characters, a text may have {limit} (NERVE_MAX_TEXT_CHARS)",
    )
