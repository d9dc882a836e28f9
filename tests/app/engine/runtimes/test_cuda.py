"""CUDA: what can be told of it without a GPU."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.runtimes.cuda import CUDA, MULTIPLE, Cuda, CudaSession, padded_length
from app.engine.runtimes.runtime import Arrays, Contract, Logits, Running, Settled, Wanted
from app.errors import InferenceFailed, SettingsError
from tests.runtimes import Machine, make_batch, no_cuda

LONGEST = 512


@pytest.mark.parametrize(("longest", "length"), [(1, 8), (8, 8), (9, 16), (250, 256), (256, 256)])
def test_lengths_are_multiples_of_eight(longest: int, length: int) -> None:
    assert padded_length(longest, LONGEST) == length


@pytest.mark.parametrize(("longest", "length"), [(97, 100), (100, 100), (96, 96), (101, 101)])
def test_rounding_does_not_exceed_what_the_network_takes(longest: int, length: int) -> None:
    assert padded_length(longest, max_length=100) == length


@given(st.integers(1, LONGEST))
def test_a_length_wastes_little_and_stays_when_it_is_asked_for_again(longest: int) -> None:
    length = padded_length(longest, LONGEST)
    assert longest <= length < longest + MULTIPLE
    assert padded_length(length, LONGEST) == length


@no_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")  # the runtime's own word on it
def test_a_session_is_on_cuda_or_there_is_none(models_dir: Path) -> None:
    """The runtime itself takes the CPU in silence where a GPU has no room."""
    with pytest.raises(SettingsError, match=r"CUDAExecutionProvider was asked for.*NERVE_PROVIDER=cpu"):
        CudaSession(models_dir / "ner-en/1/model.fp32.onnx", 1, "logits", 64)


@no_cuda
def test_what_is_missing_is_told_with_a_remedy() -> None:
    available = ", ".join(onnxruntime.get_available_providers())
    assert not Cuda().available()
    assert Cuda().missing() == (
        f"onnxruntime-gpu is missing (available: {available}); "
        "install the gpu extra on a machine with a GPU"
    )


def planned(wanted: Wanted) -> tuple[Running, list[int]]:
    """How it would run a network that fails on more than 2,000 sub-tokens, and the threads it opened."""
    opened: list[int] = []

    class Full(Machine):
        def run(self, batch: Arrays) -> Logits:
            if batch["mask"].size > 2_000:
                raise InferenceFailed("out of memory")
            return np.zeros((*batch["mask"].shape, 3), np.float32)

    def open_session(threads: int) -> Machine:
        opened.append(threads)
        return Full(threads)

    return Cuda().plan(
        open_session, make_batch, Contract(frozenset({"mask"}), "logits", 64), wanted
    ), opened


def test_one_session_runs_one_batch_while_another_is_made() -> None:
    running, opened = planned(Wanted(threads=8))
    assert opened == [1]
    assert running.single is running.session
    assert (running.runs, running.threads, running.provider) == (2, 2, CUDA)
    assert running.max_batch_tokens in {64 << step for step in range(5)}


def test_what_is_wanted_is_not_measured() -> None:
    running, _ = planned(Wanted(threads=8, settled=Settled(3), max_batch_tokens=10_000))
    assert (running.runs, running.max_batch_tokens) == (3, 10_000)
    assert running.settled == Settled(3, own_single=False)
