"""Groups: records that are annotated at once, with what of each must come out again.

A record that cannot be read is no error here but a `Reject` in its group, so that it stays in order with
the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from app.bulk.lines import Position

ENTITIES = "entities"
"""The field or column that is added; one of this name in the input is replaced."""

GROUP_TEXTS = 512
GROUP_CHARACTERS = 1 << 17
GROUP_SIZE = 1 << 22
"""A group ends with the text, the character of texts, or the character of whole records that reaches one of
these. The texts of a group run in the order of their lengths, and a smaller group has few texts of about
the same length."""

_SHOWN = 1_000
"""Characters of a bad record that are kept."""


class Record(NamedTuple):
    """One record as it was read.

    Attributes:
        number: of its first line, or of its row; from 1.
        kept: what must come out again, in the form that its reader's rows take.
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
    """What must come out again of a group's records, in the form that each kind of output wants."""

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
class Group:
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

    def groups(self, start: Position) -> Iterator[Group]:
        """All records from there on."""
        ...


def gather(
    records: Iterator[Record | Reject], position: Callable[[], Position], rows: Callable[[list[Any]], Rows]
) -> Iterator[Group]:
    """Put records into groups; the last may be small, and one long text may be a group of its own."""
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
