"""CUDA: networks run by ONNX Runtime on a GPU.

A GPU multiplies matrices in tiles, and wastes what a length leaves of the last one. It runs one batch
while another is made or decoded, and how large a batch it can take is found when a version loads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from app.engine.runtimes.binding import DeviceBinding
from app.engine.runtimes.runtime import Arrays, Contract, MakeBatch, Running, Session, Wanted
from app.engine.runtimes.session import OnnxSession
from app.engine.runtimes.tuning import token_budget

CUDA = "CUDAExecutionProvider"

MULTIPLE = 8
"""Lengths are multiples of this: matrix units of half precision work on 8 columns at a time."""

_RUNS = 2
"""Batches at a time: the GPU runs one while the other is made or decoded."""

_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    # The default tries every algorithm of a convolution on each shape that it has not seen.
    "cudnn_conv_algo_search": "HEURISTIC",
}

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""The smallest ONNX graph: y = x."""


class CudaSession(OnnxSession):
    """A session on a GPU, whose inputs and logits stay bound to the device.

    Args:
        path: the ONNX file.
        threads: intra-op threads of the nodes that run on the CPU.
        output: name of the logits' output.
        max_length: sub-tokens of a row that the network takes at most.
    """

    def __init__(self, path: Path, threads: int, output: str, max_length: int):
        super().__init__(path, CUDA, threads, output, _OPTIONS)
        self._max_length = max_length
        self._binding = DeviceBinding(self._session, output)

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """The rows of a batch, and its length rounded up to a multiple of 8 that the network takes."""
        return rows, padded_length(longest, self._max_length)

    def _logits(self, batch: Arrays) -> Any:
        return self._binding.run(batch)


class Cuda:
    """The runtime `cuda`."""

    name = "cuda"
    provider = CUDA
    runs_every_file = True
    prefers_fp16 = True
    single_process: str | None = "each would take its part of the GPU"

    def available(self) -> bool:
        """Whether a session really runs on CUDA: a missing library or device shows only then."""
        if CUDA not in onnxruntime.get_available_providers():
            return False
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds what the gpu extra installed
        try:
            probe = onnxruntime.InferenceSession(_IDENTITY, providers=[CUDA])
        except Exception:  # the runtime's own exception types share no root
            return False
        return bool(probe.get_providers()[0] == CUDA)

    def missing(self) -> str:
        """What keeps it from being available, and the remedy."""
        providers = onnxruntime.get_available_providers()
        what = "a session on CUDA cannot be made" if CUDA in providers else "onnxruntime-gpu is missing"
        return f"{what} (available: {', '.join(providers)}); install the gpu extra on a machine with a GPU"

    def open(self, file: Path, contract: Contract, threads: int) -> CudaSession:
        """The network of a file; see `Runtime.open`."""
        return CudaSession(file, threads, contract.output, contract.max_length).checked(file, contract)

    def plan(
        self,
        open_session: Callable[[int], Session],
        make_batch: MakeBatch,
        contract: Contract,
        wanted: Wanted,
    ) -> Running:
        """One session for all batches, and batches as large as pays; see `Runtime.plan`."""
        session, runs = open_session(1), wanted.settled.runs or _RUNS
        most = wanted.max_batch_tokens or token_budget(session, make_batch, contract.max_length, runs)
        return Running(session, session, runs, CUDA, runs, most)


def padded_length(longest: int, max_length: int) -> int:
    """`longest` rounded up to a multiple of `MULTIPLE`, but not beyond `max_length`."""
    rounded = -(-longest // MULTIPLE) * MULTIPLE
    return max(longest, min(rounded, max_length))
