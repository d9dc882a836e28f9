"""What tests share: folders of tiny models, a server of one, and how hypothesis runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import Server, serving
from tests.tiny import write_tiny_version

settings.register_profile(
    "nerve",
    deadline=None,  # a busy machine is no failure
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("nerve")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A models folder that holds `ner-en/1`."""
    models = tmp_path / "models"
    write_tiny_version(models)
    return models


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of `ner-en/1` and `other/1`; tests leave what it serves as it is."""
    folder = tmp_path_factory.mktemp("server")
    write_tiny_version(folder / "models", max_length=32, stride=8)
    write_tiny_version(folder / "models", "other")
    with serving(folder / "models", folder / "server.log", log_level="debug") as running:
        yield running
