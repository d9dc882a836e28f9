"""The servers that only get requests are shared, and must be as before at the end."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.harness import MB, Target, assert_quiet, resident, target
from tests.servers import until
from tests.tiny import TEXT, write_tiny_version

_MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server of the model that Nerve ships, in one process."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copytree(_MODELS / "ner-en/4", folder / "models/ner-en/4")
    with target(folder / "models", folder) as running:
        yield from unharmed(running)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server of `ner-en/1`, `ner-en/2` and `other/1`, so small that only our own work counts."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, version in (("ner-en", 1), ("ner-en", 2), ("other", 1)):
        write_tiny_version(folder / "models", name, version)
    with target(folder / "models", folder) as running:
        yield from unharmed(running)


def unharmed(running: Target) -> Iterator[Target]:
    """Lend a server to tests, and assert at the end that nothing of the attacks is left."""
    server = running.server
    before = resident(server)
    yield running
    assert server.process.poll() is None, "the server died"
    assert server.ner(TEXT)["entities"]
    assert server.client.get("/readyz").status_code == 200
    until(lambda: server.metric("nerve_requests_in_flight") <= 1, seconds=90)
    end = time.monotonic() + 20
    while (left := resident(server) - before) > 250 * MB and time.monotonic() < end:
        time.sleep(0.2)
    assert left <= 250 * MB, f"{left / MB:.0f} MB are not given back, twenty seconds after the last attack"
    assert_quiet(server.log)
