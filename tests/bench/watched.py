"""The service with one route more: `/watched` says how late its event loop was, and what it holds.

Only the event loop itself can tell how long it was kept from running, so a task of it sleeps for a moment
again and again, and notes by how much each sleep was too long.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import uvicorn
from fastapi import FastAPI

from app.server.process import make_app
from app.settings import read_settings

_SLEEP = 0.002


def watched() -> FastAPI:
    app = make_app(read_settings())
    inner, late = app.router.lifespan_context, [0.0]

    async def watch() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_SLEEP)
            late.append(time.perf_counter() - started - _SLEEP)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            task = asyncio.create_task(watch())
            yield
            task.cancel()

    app.router.lifespan_context = lifespan

    @app.get("/watched")
    async def show() -> dict[str, float]:
        found = {"latest": max(late), "p999": sorted(late)[int(0.999 * (len(late) - 1))]}
        late[:] = [0.0]
        gc.collect()
        process = psutil.Process()
        return found | {
            "rss": process.memory_info().rss,
            "threads": process.num_threads(),
            "files": process.num_fds(),
        }

    return app


if __name__ == "__main__":
    settings = read_settings()
    uvicorn.run(watched(), host=settings.host, port=settings.port, log_level="warning", access_log=False)
