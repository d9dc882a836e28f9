"""Managers of a models folder that holds `ner-en/1`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.versions.rollout.manager import VersionManager
from tests.managers import Make, follow, make_manager


@pytest.fixture
def make(models_dir: Path) -> Iterator[Make]:
    """Makes managers of the models folder, each as of a server that starts, and closes them."""
    made: list[VersionManager] = []

    def make() -> VersionManager:
        made.append(make_manager(models_dir))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make: Make) -> VersionManager:
    """A manager that serves `ner-en/1`."""
    manager = make()
    follow(manager)
    return manager
