"""Groups of a stream's lines: their sizes, their order, and what becomes of a text that fails."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.annotate import Annotator, Wanted
from app.api.groups import Group, Groups
from app.api.lines import Record
from app.engine.decoding.entities import Prediction
from app.errors import InferenceFailed, NotReady, Unprocessable
from app.versions.loading.loader import load_version
from tests.tiny import POISON, SPANS, TEXT, write_tiny_version


@pytest.fixture
def annotator(tmp_path: Path) -> Iterator[Annotator]:
    loaded = load_version(write_tiny_version(tmp_path))
    yield Annotator(loaded, Wanted())
    loaded.close()


def group_of(*texts: str) -> Group:
    group = Group()
    for line, text in enumerate(texts, 1):
        group.add(Record(line, text=text))
    return group


def with_groups(annotator: Annotator, scene: Callable[[Groups], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            await asyncio.wait_for(scene(Groups(annotator, tasks, "my-id")), 60)

    asyncio.run(run())


def test_a_group_ends_with_its_texts_or_its_characters() -> None:
    assert Group().has_room(Record(1, text="x" * 1_000_000))
    assert group_of(*["a"] * 31).has_room(Record(32, text="a"))
    assert not group_of(*["a"] * 32).has_room(Record(33, text="a"))
    assert not group_of("x" * 32_000).has_room(Record(2, text="x" * 1_000))


def test_groups_are_answered_in_order_and_errors_keep_their_place(annotator: Annotator) -> None:
    wrong = Unprocessable("text: is missing")

    async def scene(groups: Groups) -> None:
        first, second = group_of(TEXT), group_of("IBM")
        first.add(Record(2, error=wrong))
        for group in (first, second):
            await groups.room_for(group)
            groups.add(group)
        groups.add_no_more()
        assert await groups.oldest() is first
        found, error = await first.answered()
        assert isinstance(found, Prediction)
        assert [(entity.start, entity.end, entity.label) for entity in found.entities] == SPANS
        assert error is wrong
        groups.remove_oldest()
        assert await groups.oldest() is second
        groups.remove_oldest()
        assert await groups.oldest() is None

    with_groups(annotator, scene)


def test_a_text_that_fails_does_so_alone(annotator: Annotator) -> None:
    async def scene(groups: Groups) -> None:
        group = group_of("IBM", POISON, TEXT)
        groups.add(group)
        kinds = [type(answer) for answer in await group.answered()]
        assert kinds == [Prediction, InferenceFailed, Prediction]

    with_groups(annotator, scene)


def test_there_is_room_again_once_the_oldest_has_had_its_turn(annotator: Annotator) -> None:
    async def scene(groups: Groups) -> None:
        for _ in range(8):
            groups.add(group_of("IBM"))
        waiting = asyncio.ensure_future(groups.room_for(group_of("IBM")))
        await asyncio.sleep(0)
        assert not waiting.done()
        groups.remove_oldest()
        await waiting

    with_groups(annotator, scene)


def test_what_is_cleared_is_dropped_and_makes_room(annotator: Annotator) -> None:
    async def scene(groups: Groups) -> None:
        group = group_of(TEXT)
        groups.add(group)
        groups.clear()
        await groups.room_for(group_of("x" * 1_000_000))
        groups.add_no_more()
        assert await groups.oldest() is None
        assert group.answers
        with pytest.raises(asyncio.CancelledError):
            await group.answers

    with_groups(annotator, scene)


def test_a_version_that_is_closed_answers_each_text_so(annotator: Annotator) -> None:
    annotator._loaded.close()

    async def scene(groups: Groups) -> None:
        group = group_of(TEXT, "IBM")
        groups.add(group)
        assert [type(answer) for answer in await group.answered()] == [NotReady, NotReady]

    with_groups(annotator, scene)
