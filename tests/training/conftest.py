"""What the tests of training share: where the real corpora lie, one thread, and a toy run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.toy import STUDENTS, write_recipe

LABELLED = Path(__file__).parents[2] / "../shared/data/labelled"


@pytest.fixture(scope="session")
def labelled() -> Path:
    """The folder of `training/recipes/ner-en.toml`; docs/data.md says how to make it."""
    if not LABELLED.is_dir():
        pytest.skip("the real corpora are not here (../shared/data/labelled, see docs/data.md)")
    return LABELLED


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Make torch sum in one order, so that runs in this and in another process are equal to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with `toy.toml` and all it names; nothing is trained in it."""
    folder = tmp_path_factory.mktemp("toy")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The toy with two students and a trained teacher of two seeds."""
    from training.recipe import load_recipe
    from training.stages.finetune import finetune_stage

    folder = tmp_path_factory.mktemp("tuned")
    finetune_stage(load_recipe(write_recipe(folder, (1, 2), STUDENTS)), lambda line: None)
    return folder
