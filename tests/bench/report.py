"""What a benchmark is told, and how it shows what it measured and where."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles


@dataclass(frozen=True)
class Options:
    """The model to measure, and how many requests and swaps to measure it with."""

    models: Path
    model: str
    requests: int
    swaps: int


def show(title: str, unit: str, samples: Mapping[str, Sequence[float]], floor: str) -> dict[str, float]:
    """Print each median, high value and ratio of the median to the floor's; return the medians.

    The high value is the 99th percentile, or the maximum where there are too few samples for one.
    """
    medians = {name: median(values) for name, values in samples.items()}
    width = max(map(len, samples))
    many = all(len(values) >= 100 for values in samples.values())
    high = "p99" if many else "max"
    print(f"{title}\n  {'':{width}}  {'p50 ' + unit:>10}  {high + ' ' + unit:>10}  {'ratio':>6}")
    for name, values in samples.items():
        top = quantiles(values, n=100)[98] if many else max(values)
        ratio = medians[name] / medians[floor]
        print(f"  {name:{width}}  {medians[name]:10.2f}  {top:10.2f}  {ratio:6.2f}")
    print()
    return medians


def machine() -> str:
    """The processor, what of it this process may use, how busy it is, and the versions that count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ("nerve-ner", "onnxruntime", "tokenizers", "fastapi", "uvicorn", "numpy")
    system = f"{platform.system()} {platform.machine()}"
    return (
        f"{_cpu_model()}, {cores} cores, load {os.getloadavg()[0]:.1f}, {system}\n"
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}\n"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
