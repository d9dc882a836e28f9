"""An application in the process of its test, without a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI


@asynccontextmanager
async def client_of(app: FastAPI, prefix: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client in this process, once the default model answers."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://nerve") as client,
        asyncio.timeout(300),
    ):
        while (await client.get(f"{prefix}/readyz")).status_code != 200:
            await asyncio.sleep(0.02)
        yield client
