"""Session: one ONNX file on one execution provider, threads chosen for this machine."""

import math
import os
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from app.errors import InferenceFailed, SettingsError

Arrays = Mapping[str, npt.NDArray[np.int64]]
Logits = npt.NDArray[np.float32]
Provider = Literal["auto", "cpu", "cuda"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""The smallest ONNX graph: y = x."""


class Session(Protocol):
    """What the scheduler runs: named arrays of shape (rows, length) in, logits out."""

    def run(self, batch: Arrays) -> Logits:
        """Logits of shape (rows, length, tags)."""
        ...


class OnnxSession:
    """An ONNX Runtime session. Whoever makes it closes it by dropping it.

    Args:
        path: the ONNX file.
        provider: `CPUExecutionProvider` or `CUDAExecutionProvider`.
        threads: intra-op threads; 0 takes `available_cpus()`.
        output: name of the logits' output.
    """

    def __init__(self, path: Path, provider: str = CPU, threads: int = 0, output: str = "logits"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Between batches the threads that spin would take the CPU from who makes the next one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Shapes change with every batch: a plan of each would only fill memory.
        options.enable_mem_pattern = False
        providers: list[Any] = [CPU]
        if provider == CUDA:
            providers.insert(0, (CUDA, {"arena_extend_strategy": "kSameAsRequested"}))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._output = [output]
        self.provider: str = self._session.get_providers()[0]
        self.threads: int = options.intra_op_num_threads
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, batch: Arrays) -> Logits:
        """Logits of shape (rows, length, tags) from int64 arrays of shape (rows, length).

        Raises:
            InferenceFailed: the runtime refused the batch or ran out of memory.
        """
        try:
            (logits,) = self._session.run(self._output, dict(batch))
        except Exception as error:  # the runtime's own exception types share no root
            raise InferenceFailed(f"the session failed on a batch: {error}") from error
        return np.asarray(logits, np.float32)


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


def available_cpus() -> int:
    """CPUs this process may use: its affinity, further limited by the cgroup's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_quota()
    cpus = allowed or 1
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


def _cgroup_quota() -> float | None:
    """CPUs the cgroup (v2, then v1) grants, or None where it grants all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError):
        return None
