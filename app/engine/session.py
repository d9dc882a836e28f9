"""Session: one ONNX file on one execution provider, threads chosen for this machine."""

import math
import os
from collections.abc import Mapping
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
    works = CUDA in available and _has_cuda_device()
    if wanted == "cuda" and not works and not allow_cpu_fallback:
        missing = "no CUDA device was found" if CUDA in available else "onnxruntime-gpu is missing"
        raise SettingsError(
            f"NERVE_PROVIDER=cuda, but {missing} (available: {', '.join(available)}); install "
            "the gpu extra on a machine with a GPU, or set NERVE_ALLOW_CPU_FALLBACK=true"
        )
    return CUDA if works and wanted != "cpu" else CPU


def _has_cuda_device() -> bool:
    return any(
        device.ep_name == CUDA or "cuda" in device.ep_name.lower()
        for device in onnxruntime.get_ep_devices()
    )


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
