"""The runtime `cuda` runs networks with ONNX Runtime on a GPU.

A GPU multiplies matrices in tiles, so lengths are rounded up to fill them. It runs one batch while another
is collated or decoded. The size of the largest batch is measured when a version loads.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from app.engine.runtimes.binding import DeviceBinding
from app.engine.runtimes.runtime import Arrays, Contract, MakeBatch, OnnxFile, Running, Session, Wanted
from app.engine.runtimes.session import OnnxSession
from app.engine.runtimes.tuning import token_budget

CUDA = "CUDAExecutionProvider"

MULTIPLE = 8
"""Lengths are multiples of this, because matrix units of half precision work on 8 columns at a time."""

_RUNS = 2
"""Batches at a time: the GPU runs one while the other is collated or decoded."""

_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    # The default would try every algorithm of a convolution on each new shape.
    "cudnn_conv_algo_search": "HEURISTIC",
}

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""This is the smallest ONNX graph, y = x."""


class CudaSession(OnnxSession):
    """Runs a network on a GPU, with inputs and logits bound to the device.

    Args:
        file: the ONNX file, or its path.
        threads: intra-op threads of the nodes that run on the CPU.
        output: name of the output that holds the logits.
        max_length: most sub-tokens of a row that the network takes.
    """

    def __init__(self, file: Path | OnnxFile, threads: int, output: str, max_length: int):
        super().__init__(file, CUDA, threads, output, _OPTIONS)
        self._max_length = max_length
        self._binding = DeviceBinding(self._session, output)

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """Return `rows`, and `longest` rounded up to a multiple of 8 that the network can take."""
        return rows, padded_length(longest, self._max_length)

    def _logits(self, batch: Arrays, options: Any) -> Any:
        return self._binding.run(batch, options)


class Cuda:
    """Runs networks on a GPU; see `Runtime`."""

    name = "cuda"
    provider = CUDA
    runs_every_file = True
    prefers_fp16 = True
    single_process: str | None = "each would take its part of the GPU"

    def available(self) -> bool:
        """Say whether a session runs on CUDA: only that shows if a library or the device is missing."""
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
        """Say what keeps the runtime from being available, and the remedy."""
        providers = onnxruntime.get_available_providers()
        what = "a session on CUDA cannot be made" if CUDA in providers else "onnxruntime-gpu is missing"
        return f"{what} (available: {', '.join(providers)}); install the gpu extra on a machine with a GPU"

    def open(self, file: Path | OnnxFile, contract: Contract, threads: int) -> CudaSession:
        """Open the network of a file; see `Runtime.open`."""
        return CudaSession(file, threads, contract.output, contract.max_length).checked(file, contract)

    def plan(
        self,
        open_session: Callable[[int], Session],
        make_batch: MakeBatch,
        contract: Contract,
        wanted: Wanted,
    ) -> Running:
        """Open one session for all batches, and measure the largest useful batch; see `Runtime.plan`."""
        session, runs = open_session(1), wanted.settled.runs or _RUNS
        most = wanted.max_batch_tokens or token_budget(session, make_batch, contract.max_length, runs)
        return Running(session, session, runs, CUDA, runs, most)


def padded_length(longest: int, max_length: int) -> int:
    """Round `longest` up to a multiple of `MULTIPLE`, but not beyond `max_length`."""
    rounded = -(-longest // MULTIPLE) * MULTIPLE
    return max(longest, min(rounded, max_length))
