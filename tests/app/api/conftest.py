"""What tests of dialects share: a client of an application in this process."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings
from tests.app.api.toy import Client, Toy
from tests.servers import until
from tests.tiny import write_tiny_version


@pytest.fixture(scope="package")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an application that speaks Toy too."""
    folder: Path = tmp_path_factory.mktemp("toy")
    write_tiny_version(folder / "models")
    settings = Settings(models_dir=folder / "models", threads=1, max_texts=10, max_body_bytes=100_000)
    app = create_app(settings)
    app.router.routes += app.state.annotating.routes_of(Toy())
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        client = Client(app, runner)
        until(lambda: client.get("/readyz").status_code == 200)
        yield client
        runner.run(lifespan.__aexit__(None, None, None))
