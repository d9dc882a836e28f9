"""Where the real corpora lie, for the tests that count what the readers make of them."""

from pathlib import Path

import pytest

LABELLED = Path(__file__).parents[2] / "../shared/data/labelled"


@pytest.fixture(scope="session")
def labelled() -> Path:
    """The folder of `training/recipes/ner-en.toml`; docs/data.md says how to make it."""
    if not LABELLED.is_dir():
        pytest.skip("the real corpora are not here (../shared/data/labelled, see docs/data.md)")
    return LABELLED
