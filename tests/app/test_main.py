"""The application inside a process that is not its own."""

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.main import create_app
from app.metrics import Metrics
from app.settings import Settings
from tests.applications import client_of
from tests.tiny import TEXT


@pytest.fixture
def settings(models_dir: Path) -> Settings:
    return Settings(models_dir=models_dir, provider="cpu", threads=1, poll_seconds=0.05)


def mounting(inner: FastAPI) -> FastAPI:
    """Another application, with ours below `/entities`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan)

    @outer.get("/theirs")
    async def theirs() -> str:
        return "ours too"

    outer.mount("/entities", inner)
    return outer


def process_state() -> dict[str, Any]:
    """What an application could change of its process."""
    from prometheus_client import metrics

    return {
        "thresholds": gc.get_threshold(),
        "frozen": gc.get_freeze_count(),
        "switch interval": sys.getswitchinterval(),
        "created metrics": metrics._use_created,  # type: ignore[attr-defined]
        "stack size": threading.stack_size(),
    }


def test_it_changes_nothing_of_its_process(settings: Settings) -> None:
    async def answer() -> None:
        async with client_of(create_app(settings)) as client:
            assert (await client.post("/ner", json={"text": TEXT})).status_code == 200
            assert process_state() == before

    before = process_state()
    asyncio.run(answer())
    assert process_state() == before


def test_it_works_below_another_application(settings: Settings) -> None:
    async def ask() -> None:
        async with client_of(mounting(create_app(settings)), "/entities") as client:
            assert (await client.get("/theirs")).json() == "ours too"
            answer = await client.post("/entities/ner", json={"text": TEXT})
            assert answer.status_code == 200
            assert answer.json()["entities"]
            assert answer.headers["x-request-id"]
            plain = {"content-type": "text/plain"}
            streamed = await client.post("/entities/ner/stream", content=TEXT, headers=plain)
            assert [len(line) > 0 for line in streamed.text.splitlines()] == [True, True]
            assert (await client.get("/entities/models")).json()["default"] == "ner-en"
            missing = await client.get("/entities/nothing")
            assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
            told = (await client.get("/entities/metrics")).text
            assert 'nerve_texts_total{model="ner-en",version="1"} ' in told
            theirs = await client.get("/nothing")
            assert theirs.json() == {"detail": "Not Found"}  # as their application says it

    asyncio.run(ask())


def test_two_applications_of_one_process_count_apart(settings: Settings) -> None:
    async def ask() -> None:
        metrics = Metrics()
        async with (
            client_of(create_app(settings, metrics)) as ours,
            client_of(create_app(settings)) as other,
        ):
            assert (await ours.post("/ner", json={"texts": [TEXT] * 3})).status_code == 200
            told = 'nerve_texts_total{model="ner-en",version="1"}'
            assert f"{told} 3.0" in metrics.exposition().decode()
            assert told not in (await other.get("/metrics")).text

    asyncio.run(ask())
