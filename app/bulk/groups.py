"""Groups hold records that are annotated together, with the parts of each that the output repeats.

A record that cannot be read becomes a `Reject` of its group, so that it stays in order with the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from app.bulk.lines import Position

ENTITIES = "entities"
"""Names the field or column that is added; it replaces one of this name in the input."""

GROUP_TEXTS = 512
GROUP_CHARACTERS = 1 << 17
GROUP_SIZE = 1 << 22
"""A group ends at this many records, characters of texts or characters of whole records. Its texts run in
the order of their lengths, and a smaller group has too few texts of about the same length."""

_SHOWN = 1_000
"""Only this many characters of a bad record are kept."""


class Record(NamedTuple):
    """Holds one record that was read.

    Attributes:
        number: the number of its first line or of its row, from 1.
        kept: what the output repeats, in the form that its reader uses for `Rows`.
        size: the approximate number of characters of `kept`.
    """

    number: int
    text: str
    kept: Any
    size: int


class Reject(NamedTuple):
    """Holds a record that is set aside.

    Attributes:
        number: the number of its first line or of its row, from 1.
        code: what is wrong, for programs.
        reason: what is wrong, for people.
        record: the start of the record.
    """

    number: int
    code: str
    reason: str
    record: str


class Rows(Protocol):
    """Holds what the output repeats of a group's records, and returns it in each output's form."""

    def objects(self) -> list[bytes]:
        """Return a JSON object for each record, without its closing brace."""
        ...

    def cells(self) -> list[list[str]]:
        """Return the CSV cells of each record."""
        ...

    def batch(self) -> Any:
        """Return all records as a `pyarrow.RecordBatch`."""
        ...

    def take(self, places: Sequence[int]) -> "Rows":
        """Return the rows at these places."""
        ...


@dataclass(frozen=True)
class Group:
    """Holds consecutive records.

    Attributes:
        numbers, texts, rows: the parts of the records that could be read, in their order.
        rejects: the records that could not be read.
        end: the position after the group.
        characters: the number of characters of the texts.
        size: the approximate number of characters of all that is kept.
    """

    numbers: list[int]
    texts: list[str]
    rows: Rows
    rejects: list[Reject]
    end: Position
    characters: int
    size: int


class Reader(Protocol):
    """Reads an input once, from the start or from a position.

    Attributes:
        unit: what record numbers count, `line` or `row`.
        columns: the columns of the output beside the entities; None if records have no fixed columns.
        schema: these columns as a `pyarrow.Schema`, if the input is Parquet; else None.
        total: the value of `progress` at the end; None if unknown.
    """

    unit: str
    columns: list[str] | None
    schema: Any
    total: int | None

    @property
    def progress(self) -> int:
        """Return how much has been read: bytes of the file, or rows of Parquet."""
        ...

    def groups(self, start: Position) -> Iterator[Group]:
        """Yield all records from a position on."""
        ...


def gather(
    records: Iterator[Record | Reject], position: Callable[[], Position], rows: Callable[[list[Any]], Rows]
) -> Iterator[Group]:
    """Put records into groups; `position` returns the position after the record that was read last."""
    good: list[Record] = []
    rejects: list[Reject] = []
    characters = size = 0

    def group() -> Group:
        numbers, texts = [record.number for record in good], [record.text for record in good]
        kept = rows([record.kept for record in good])
        return Group(numbers, texts, kept, rejects, position(), characters, size)

    for record in records:
        if isinstance(record, Reject):
            rejects.append(record)
        else:
            good.append(record)
            characters += len(record.text)
            size += record.size
        many = len(good) + len(rejects) >= GROUP_TEXTS
        if many or characters >= GROUP_CHARACTERS or size >= GROUP_SIZE:
            yield group()
            good, rejects, characters, size = [], [], 0, 0
    if good or rejects:
        yield group()


def reject(number: int, code: str, reason: str, record: str) -> Reject:
    """Make a `Reject`, with the start of the record only."""
    return Reject(number, code, reason, record[:_SHOWN])


def not_utf8(error: UnicodeDecodeError) -> tuple[str, str]:
    """Return the code and the reason for a record that is not UTF-8."""
    return "invalid_utf8", f"not UTF-8 (byte {error.start} of its line)"


def too_long(characters: int, limit: int) -> tuple[str, str]:
    """Return the code and the reason for a text that is too long."""
    return (
        "text_too_long",
        f"the text has {characters} characters, a text may have {limit} (NERVE_MAX_TEXT_CHARS)",
    )
