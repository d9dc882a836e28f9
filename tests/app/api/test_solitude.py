"""When a request may be answered on the event loop: only for callers who have been alone for a while."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from app.api.solitude import Solitude
from tests.answers import spans
from tests.servers import Server, until
from tests.tiny import SPANS, TEXT

ENOUGH = 8


def in_a_loop(scene: Callable[[Solitude], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene(Solitude()))


async def turns(count: int = 10) -> None:
    """As long as it takes a caller at least to read an answer and ask again."""
    for _ in range(count):
        await asyncio.sleep(0)


async def alone(solitude: Solitude, times: int) -> list[bool]:
    """Whether each of some requests, one after another, may hold the loop."""
    may = []
    for _ in range(times):
        with solitude:
            may.append(solitude.may_hold())
        await turns()
    return may


def test_who_has_been_alone_for_a_while_may_hold_the_loop() -> None:
    async def scene(solitude: Solitude) -> None:
        assert await alone(solitude, ENOUGH + 3) == [False] * ENOUGH + [True] * 3

    in_a_loop(scene)


def test_two_at_a_time_are_not_alone_nor_are_those_that_follow_at_once() -> None:
    async def scene(solitude: Solitude) -> None:
        await alone(solitude, ENOUGH + 1)
        with solitude:
            with solitude:
                assert not solitude.may_hold()
            assert not solitude.may_hold()
        assert await alone(solitude, ENOUGH + 1) == [False] * ENOUGH + [True]

    in_a_loop(scene)


def test_who_waited_while_the_loop_was_held_was_not_alone() -> None:
    async def scene(solitude: Solitude) -> None:
        await alone(solitude, ENOUGH)
        with solitude:
            assert solitude.may_hold()
        await asyncio.sleep(0)  # the loop hears of a request that came meanwhile
        with solitude:
            assert not solitude.may_hold()
        await turns()
        assert await alone(solitude, ENOUGH + 1) == [False] * ENOUGH + [True]

    in_a_loop(scene)


def test_a_request_that_fails_counts_as_gone() -> None:
    async def scene(solitude: Solitude) -> None:
        for _ in range(ENOUGH):
            try:
                with solitude:
                    raise ValueError
            except ValueError:
                await turns()
        assert await alone(solitude, 1) == [True]

    in_a_loop(scene)


# with a server


def test_a_lone_caller_and_several_at_once_get_the_same_answers(server: Server) -> None:
    """Whoever runs a batch, the event loop or a runner's thread, it is counted."""
    of = {"model": "ner-en", "version": "1"}

    def counts() -> dict[str, float]:
        names = ("batch_rows_sum", "batch_rows_count", "inference_seconds_count", "queue_seconds_count")
        return {name: server.metric(f"nerve_{name}", **of) for name in names}

    def ask(client: httpx.Client, times: int) -> list[Any]:
        return [client.post("/ner", json={"text": TEXT}).json() for _ in range(times)]

    before = counts()
    with server.fresh_client() as lone:
        answers = ask(lone, 30)
    assert spans(answers[0]) == SPANS
    assert answers == answers[:1] * 30
    until(lambda: counts() == {name: count + 30 for name, count in before.items()})

    with server.clients(4) as clients, ThreadPoolExecutor(4) as pool:
        several = list(pool.map(ask, clients, [10] * 4))
    assert several == [answers[:1] * 10] * 4
    until(lambda: counts()["batch_rows_sum"] == before["batch_rows_sum"] + 30 + 40)
    after = {name: count - before[name] for name, count in counts().items()}
    assert after["queue_seconds_count"] == 70
    assert after["batch_rows_count"] == after["inference_seconds_count"] <= 70
