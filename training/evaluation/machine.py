"""This module describes the machine of a measurement."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from app.machine import available_cpus

_LIBRARIES = ("numpy", "onnxruntime", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Machine:
    """Describes the machine of a measurement.

    Attributes:
        processor: name of the processor.
        cores: number of cores that this process may use.
        load: mean number of running or waiting processes over the last minute.
        system: operating system and architecture.
        libraries: the version of each library that a measurement depends on.
    """

    processor: str
    cores: int
    load: float
    system: str
    libraries: dict[str, str]


def machine() -> Machine:
    """Describe the machine of this process at this moment."""
    return Machine(
        processor=_processor(),
        cores=available_cpus(),
        load=round(os.getloadavg()[0], 1),
        system=f"{platform.system()} {platform.machine()}",
        libraries={"Python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
