"""What the tests of networks share: one thread, and a teacher."""

from collections.abc import Iterator

import pytest
import torch

from tests.training.models.teachers import toy_teacher
from training.models.transformer import TransformerTagger


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TransformerTagger:
    """Two layers, 32 wide, sees word shapes. Tests leave it as it is."""
    return toy_teacher(tmp_path_factory.mktemp("teacher"))
