"""Session: one ONNX file on one execution provider, threads chosen for this machine."""

from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from app.engine.runtimes.batch_shapes import gpu_shape
from app.engine.runtimes.binding import DeviceBinding, pinned_memory
from app.errors import InferenceFailed, SettingsError
from app.machine import available_cpus

Arrays = Mapping[str, npt.NDArray[np.int64]]
Logits = npt.NDArray[np.float32]
Provider = Literal["auto", "cpu", "cuda"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SPIN_MICROSECONDS = 100
"""How long an intra-op thread looks for work before it sleeps. Less loses the time of waking it between
operators, more takes the CPU from who makes the next batch."""

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""The smallest ONNX graph: y = x."""


class Session(Protocol):
    """What the scheduler runs: named arrays of shape (rows, length) in, logits out."""

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """The rows and length that a batch of `rows`, the longest of `longest` sub-tokens, is made with."""
        ...

    def run(self, batch: Arrays) -> Logits:
        """Logits of shape (rows, length, tags). Several threads may call it at once."""
        ...


class OnnxSession:
    """An ONNX Runtime session. Whoever makes it closes it by dropping it.

    Args:
        path: the ONNX file.
        provider: `CPUExecutionProvider` or `CUDAExecutionProvider`.
        threads: intra-op threads; 0 takes `available_cpus()`.
        output: name of the logits' output.
        max_length: sub-tokens of a row that the network takes at most; None knows no end.
        cuda_graphs: on CUDA, record small shapes once and replay them. Never run on a GPU yet.
        pinned: on CUDA, pass inputs through page-locked memory. Never run on a GPU yet.

    Raises:
        SettingsError: the runtime made a session on another provider than was asked for.
    """

    def __init__(
        self,
        path: Path,
        provider: str = CPU,
        threads: int = 0,
        output: str = "logits",
        max_length: int | None = None,
        cuda_graphs: bool = False,
        pinned: bool = False,
    ):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
        # Between batches no thread spins at all.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Shapes change with every batch: a plan of each would only fill memory.
        options.enable_mem_pattern = False
        providers: list[Any] = [CPU]
        if provider == CUDA:
            providers.insert(0, (CUDA, _cuda_options(cuda_graphs)))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._session.disable_fallback()
        self._output = [output]
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider:
            raise SettingsError(
                f"{path.name}: a session on {provider} was asked for, and the runtime could make one on "
                f"{self.provider} only; free memory of the GPU, or set NERVE_PROVIDER=cpu"
            )
        self.threads: int = options.intra_op_num_threads
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        self._max_length = max_length
        self._graphs = cuda_graphs and provider == CUDA
        self._binding = (
            DeviceBinding(
                self._session, output, graphs=cuda_graphs, host=pinned_memory() if pinned else None
            )
            if provider == CUDA
            else None
        )

    def shape(self, rows: int, longest: int) -> tuple[int, int]:
        """The rows and length that a batch of `rows`, the longest of `longest` sub-tokens, is made with.

        On the CPU these very numbers; on CUDA the length is a multiple of 8, and with CUDA graphs there
        may be more rows. Rows beyond the real ones are padding: each must attend to one sub-token at
        least, as attention to none is not a number; its logits mean nothing.
        """
        if self.provider != CUDA:
            return rows, longest
        return gpu_shape(rows, longest, self._max_length, self._graphs)

    def run(self, batch: Arrays) -> Logits:
        """Logits of shape (rows, length, tags) from int64 arrays of shape (rows, length).

        Several threads may call it at once.

        Raises:
            InferenceFailed: the runtime refused the batch or ran out of memory.
        """
        try:
            if self._binding:
                logits = self._binding.run(batch)
            else:
                (logits,) = self._session.run(self._output, dict(batch))
        except Exception as error:  # the runtime's own exception types share no root
            raise InferenceFailed(f"the session failed on a batch: {error}") from error
        return np.asarray(logits, np.float32)


def _cuda_options(graphs: bool) -> dict[str, str]:
    """Options of the CUDA provider."""
    options = {
        "arena_extend_strategy": "kSameAsRequested",
        # The default tries every algorithm of a convolution on each shape that it has not seen.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    return options | ({"enable_cuda_graph": "1"} if graphs else {})


def choose_provider(wanted: Provider, allow_cpu_fallback: bool = False) -> str:
    """The execution provider to use.

    Raises:
        SettingsError: CUDA was asked for and this machine or installation has none.
    """
    available = onnxruntime.get_available_providers()
    works = wanted != "cpu" and CUDA in available and _cuda_works()
    if wanted == "cuda" and not works and not allow_cpu_fallback:
        missing = "a session on CUDA cannot be made" if CUDA in available else "onnxruntime-gpu is missing"
        raise SettingsError(
            f"NERVE_PROVIDER=cuda, but {missing} (available: {', '.join(available)}); install "
            "the gpu extra on a machine with a GPU, or set NERVE_ALLOW_CPU_FALLBACK=true"
        )
    return CUDA if works else CPU


def check_installation() -> None:
    """Raises SettingsError: both builds of ONNX Runtime are installed, and one hides the other."""
    if all(any(distributions(name=build)) for build in ("onnxruntime", "onnxruntime-gpu")):
        raise SettingsError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "make a new environment with one of the extras cpu and gpu"
        )


def _cuda_works() -> bool:
    """Whether a session really runs on CUDA: a missing library or device shows only then."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds what the gpu extra installed
    try:
        probe = onnxruntime.InferenceSession(_IDENTITY, providers=[CUDA])
    except Exception:  # the runtime's own exception types share no root
        return False
    return bool(probe.get_providers()[0] == CUDA)
