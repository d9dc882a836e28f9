"""Records in groups: all of them, in order, and no group much larger than it may be."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from app.bulk.groups import GROUP_CHARACTERS, GROUP_TEXTS, Group, Record, Reject, gather
from app.bulk.lines import Position
from app.bulk.rows import TableRows

LENGTHS = st.lists(st.none() | st.sampled_from([0, 1, 5_000, 70_000, GROUP_CHARACTERS]), max_size=60)


def records(lengths: list[int | None]) -> list[Record | Reject]:
    """A record of each length, and a reject for each None."""
    return [
        Reject(number, "bad", "bad", "") if length is None else Record(number, "x" * length, ["x"], length)
        for number, length in enumerate(lengths, 1)
    ]


def grouped(of: list[Record | Reject]) -> list[Group]:
    read = 0

    def reading() -> Iterator[Record | Reject]:
        nonlocal read
        for record in of:
            read = record.number
            yield record

    return list(gather(reading(), lambda: Position(read), lambda kept: TableRows(["text"], kept)))


@given(LENGTHS)
def test_every_record_is_in_one_group_in_order(lengths: list[int | None]) -> None:
    of = records(lengths)
    groups = grouped(of)
    assert [n for group in groups for n in group.numbers] == [r.number for r in of if isinstance(r, Record)]
    assert [r for group in groups for r in group.rejects] == [r for r in of if isinstance(r, Reject)]
    assert all(len(group.rows.cells()) == len(group.texts) for group in groups)
    if groups:
        assert groups[-1].end == Position(len(of))


@given(LENGTHS)
def test_a_group_ends_with_the_text_that_fills_it(lengths: list[int | None]) -> None:
    for group in grouped(records(lengths)):
        assert group.characters == sum(map(len, group.texts))
        assert sum(map(len, group.texts[:-1])) < GROUP_CHARACTERS


def test_a_group_has_so_many_records_bad_ones_too() -> None:
    groups = grouped(records([1, None] * GROUP_TEXTS))
    assert [len(group.texts) + len(group.rejects) for group in groups] == [GROUP_TEXTS] * 2
    assert [group.end.number for group in groups] == [GROUP_TEXTS, 2 * GROUP_TEXTS]
