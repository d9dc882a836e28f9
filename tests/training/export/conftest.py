"""What the tests of exports share: one thread, and a checkpoint of each kind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.export.checkpoints import SPELLINGS, write_checkpoint


@pytest.fixture(scope="module", autouse=True)
def one_cpu() -> Iterator[None]:
    """Keep torch and the sessions, which take a thread for each CPU they may use, to one thread."""
    threads, cpus = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cpus)})
    yield
    os.sched_setaffinity(0, cpus)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bert(one_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with IOB2 tags."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-bert", "bert", SPELLINGS["bert"])
