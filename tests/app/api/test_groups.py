"""Groups of a stream's lines, with a real version: how lines are packed, and what becomes of each."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.annotate import Annotator, Wanted
from app.api.groups import Group, Groups
from app.api.lines import Record
from app.api.room import Room, Share
from app.engine.decoding.entities import Prediction
from app.errors import BadRequest, InferenceFailed, NerveError, NotReady
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from tests.tiny import POISON, SPANS, TEXT, write_tiny_version

TEXTS, CHARACTERS, GROUPS, IN_FLIGHT = 32, 32_768, 8, 262_144
"""The most texts and characters of a group, and the most groups and characters at a time."""

Found = list[Prediction | NerveError]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedVersion]:
    """A version whose queue holds a few texts."""
    folder = write_tiny_version(tmp_path_factory.mktemp("models"))
    version = load_version(folder, LoadOptions(threads=1, max_queue_tokens=400))
    yield version
    version.close()


def packed(records: Sequence[Record]) -> list[Group]:
    """The groups that records make, one after another."""
    groups: list[Group] = []
    for record in records:
        if not groups or not groups[-1].has_room(record):
            groups.append(Group())
        groups[-1].add(record)
    return groups


def records_of(*texts: str) -> list[Record]:
    return [Record(line, text=text) for line, text in enumerate(texts, 1)]


async def annotated(loaded: LoadedVersion, records: Sequence[Record]) -> Found:
    """The answers to records, as one stream gets them."""
    found: Found = []
    async with asyncio.TaskGroup() as tasks:
        groups = Groups(Annotator(loaded, Wanted()), tasks, "my-id", Share(Room(10**9)))

        async def add() -> None:
            for group in packed(records):
                await groups.room_for(group)
                groups.add(group)
            groups.add_no_more()

        tasks.create_task(add())
        while group := await groups.oldest():
            found += await group.answered()
            groups.remove_oldest()
    return found


def spans(prediction: Prediction | NerveError) -> list[tuple[int, int, str]]:
    assert isinstance(prediction, Prediction)
    return [(entity.start, entity.end, entity.label) for entity in prediction.entities]


# one group


lengths = st.integers(0, 2_000) | st.integers(30_000, 40_000)


@given(st.lists(lengths, max_size=80))
@example([1] * 80)
def test_a_group_is_as_full_as_its_limits_allow(sizes: list[int]) -> None:
    records = records_of(*("x" * size for size in sizes))
    groups = packed(records)
    assert [record for group in groups for record in group.records] == records
    for group in groups:
        assert len(group.records) <= TEXTS
        assert group.size <= CHARACTERS or len(group.records) == 1
    for group, following in pairwise(groups):
        more = group.size + len(following.records[0].text)
        assert len(group.records) == TEXTS or more > CHARACTERS


def test_an_id_takes_room_too() -> None:
    group = Group()
    group.add(Record(1, text="x" * (CHARACTERS - 10)))
    assert group.has_room(Record(2, id=b"1234", text="123456"))
    assert not group.has_room(Record(2, id=b"12345", text="123456"))


# several groups


@settings(max_examples=15)
@given(st.lists(st.sampled_from([TEXT, "IBM", "", "x " * 300, "bad"]), max_size=80))
def test_every_line_has_its_own_answer_in_its_place(loaded: LoadedVersion, lines: list[str]) -> None:
    error = BadRequest("no JSON", "invalid_json")
    records = [
        Record(number, error=error) if line == "bad" else Record(number, text=line)
        for number, line in enumerate(lines, 1)
    ]
    found = asyncio.run(annotated(loaded, records))
    known = {line: loaded.model.predict([line])[0] for line in {*lines} - {"bad"}}
    assert found == [error if line == "bad" else known[line] for line in lines]


def test_streams_share_a_queue_that_is_always_full(loaded: LoadedVersion) -> None:
    """Each gets all its answers: who finds no room waits."""
    records = records_of(*[TEXT * 3] * 500)

    async def four() -> list[Found]:
        return await asyncio.gather(*(annotated(loaded, records) for _ in range(4)))

    (expected,) = loaded.model.predict([TEXT * 3])
    assert asyncio.run(four()) == [[expected] * 500] * 4


def test_a_batch_that_fails_costs_only_the_text_that_it_fails_on(tmp_path: Path) -> None:
    version = load_version(write_tiny_version(tmp_path), LoadOptions(threads=1))
    found = asyncio.run(annotated(version, records_of(*[TEXT] * 40, POISON, *[TEXT] * 40)))
    version.close()
    assert isinstance(found.pop(40), InferenceFailed)
    assert [spans(answer) for answer in found] == [SPANS] * 80


def test_a_version_that_is_closed_answers_none(tmp_path: Path) -> None:
    version = load_version(write_tiny_version(tmp_path), LoadOptions(threads=1))
    version.close()
    found = asyncio.run(annotated(version, records_of(*[TEXT] * 40)))
    assert [type(answer) for answer in found] == [NotReady] * 40


async def may_add(groups: Groups, group: Group) -> bool:
    """Whether there is room for a group now."""
    try:
        async with asyncio.timeout(0.05):
            await groups.room_for(group)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(("size", "most"), [(1, GROUPS), (50_000, IN_FLIGHT // 50_000), (IN_FLIGHT + 1, 1)])
def test_there_is_room_for_so_many_groups_or_characters(
    loaded: LoadedVersion, size: int, most: int
) -> None:
    async def scene() -> None:
        async with asyncio.TaskGroup() as tasks:
            groups = Groups(Annotator(loaded, Wanted()), tasks, "my-id", Share(Room(10**9)))
            (group,) = packed(records_of(" " * size))
            for _ in range(most):
                assert await may_add(groups, group)
                groups.add(group)
            assert not await may_add(groups, group)
            groups.remove_oldest()
            assert await may_add(groups, group)
            groups.clear()

    asyncio.run(scene())


def test_a_stream_that_ends_leaves_nothing_behind(loaded: LoadedVersion) -> None:
    async def scene() -> None:
        async with asyncio.TaskGroup() as tasks:
            groups = Groups(Annotator(loaded, Wanted()), tasks, "my-id", Share(Room(10**9)))
            added = [packed(records_of("IBM " * 80))[0] for _ in range(GROUPS)]
            for group in added:
                groups.add(group)
            await asyncio.sleep(0)
            groups.clear()
            assert await may_add(groups, packed(records_of("x" * IN_FLIGHT))[0])
            groups.add_no_more()
            assert await groups.oldest() is None
        assert [group.answers.cancelled() for group in added if group.answers] == [True] * GROUPS

    asyncio.run(scene())
    assert spans(asyncio.run(annotated(loaded, records_of(TEXT)))[0]) == SPANS
