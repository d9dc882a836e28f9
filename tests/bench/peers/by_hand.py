"""FastAPI and onnxruntime, written by hand. `PEER_SETTING` says how the network is run.

`threads`: in FastAPI's thread pool, a session of one thread. `inline`: on the event loop, a session of all
processors. `batched`: whoever comes within 5 ms runs together, a session of all processors.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from app.machine import available_cpus
from tests.bench.peers.answers import Body, Model

SETTING = os.environ["PEER_SETTING"]
WINDOW = 0.005
LARGEST = 32

model = Model(Path(os.environ["PEER_MODEL"]), 1 if SETTING == "threads" else available_cpus())
waiting: asyncio.Queue[tuple[str, "asyncio.Future[list[dict[str, object]]]"]] = asyncio.Queue()


async def run_batches() -> None:
    loop = asyncio.get_running_loop()
    while True:
        batch = [await waiting.get()]
        end = loop.time() + WINDOW
        while len(batch) < LARGEST:
            try:
                batch.append(await asyncio.wait_for(waiting.get(), end - loop.time()))
            except TimeoutError:
                break
        found = await asyncio.to_thread(model.find, [text for text, _ in batch])
        for (_, future), entities in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(entities)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(run_batches())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


def in_pool(body: Body) -> dict[str, object]:
    return {"entities": model.find([body.text])[0]}


async def inline(body: Body) -> dict[str, object]:
    return {"entities": model.find([body.text])[0]}


async def batched(body: Body) -> dict[str, object]:
    future: asyncio.Future[list[dict[str, object]]] = asyncio.get_running_loop().create_future()
    waiting.put_nowait((body.text, future))
    return {"entities": await future}


app.post("/ner")({"threads": in_pool, "inline": inline, "batched": batched}[SETTING])
