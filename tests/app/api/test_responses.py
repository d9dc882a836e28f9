import asyncio
import time
from collections.abc import Iterator
from typing import Any

from starlette.types import Message

from app.api.responses import Pieces


def test_pieces_are_one_body() -> None:
    spent: list[float] = []
    response = asyncio.run(Pieces([b"a", b"", b"bc"], "text/plain").response(spent.append))
    assert response.body == b"abc"
    assert response.headers["content-length"] == "3"
    assert response.headers["content-type"].startswith("text/plain")
    assert len(spent) == 1


def test_others_have_a_turn_while_a_large_body_is_made_and_it_is_not_counted() -> None:
    made, turns, spent = 0, 0, list[float]()

    def pieces() -> Iterator[bytes]:
        nonlocal made
        for _ in range(5):
            time.sleep(0.002)
            made += 1
            yield b"x"

    async def others() -> None:
        nonlocal turns
        while made < 5:
            turns += 1
            time.sleep(0.05)
            await asyncio.sleep(0)

    async def both() -> bytes:
        beside = asyncio.create_task(others())
        response = await Pieces(pieces()).response(spent.append)
        await beside
        return bytes(response.body)

    assert asyncio.run(both()) == b"xxxxx"
    assert turns >= 4
    assert 0.01 <= sum(spent) < 0.05 * turns


def test_a_long_body_is_sent_piece_by_piece() -> None:
    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def answer() -> None:
        response = await Pieces([b"x" * 600_000, b"y" * 600_000], "text/plain").response(lambda _: None)
        assert response.headers["content-length"] == "1200000"
        await response({"type": "http"}, receive, send)

    asyncio.run(answer())
    assert [len(message.get("body", b"")) for message in sent] == [0, 600_000, 600_000, 0]
    assert [message.get("more_body") for message in sent] == [None, True, True, False]
