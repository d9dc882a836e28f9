"""What tests of dialects share: the documentation."""

from typing import Any

import pytest

from tests.servers import Server


@pytest.fixture(scope="package")
def openapi(server: Server) -> Any:
    return server.client.get("/openapi.json").json()
