"""What tests of adding share: a version outside the models folder."""

from pathlib import Path

import pytest

from tests.tiny import write_tiny_version


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder that is not there yet."""
    return tmp_path / "models"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """`ner-en/3` outside the models folder."""
    return write_tiny_version(tmp_path / "elsewhere", version=3)
