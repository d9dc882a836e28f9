"""What a running server says of a model's versions, and changing which of them serve."""

from typing import Any

import httpx

from tests.servers import Server


def show(server: Server, name: str) -> Any:
    """`GET /models/{name}`."""
    return server.client.get(f"/models/{name}").json()


def state(server: Server, name: str, version: int) -> str | None:
    """The state of one version; None where the server does not know it."""
    found = {v["version"]: v["state"] for v in show(server, name).get("versions", [])}
    return found.get(version)


def put(server: Server, name: str, **fields: Any) -> httpx.Response:
    """Change what should be served."""
    return server.client.put(f"/models/{name}/deployment", json=fields)
