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
    """What is measured, and for how long.

    Attributes:
        requests: of a measurement that counts them; None: what suits it.
        swaps: changes of the version that serves.
        texts: to send.
        seconds: of one turn; what is compared takes turns.
        turns: of each.
        json: the file to which `peers` writes its figures, too.
    """

    models: Path
    model: str
    requests: int | None
    swaps: int
    texts: tuple[str, ...]
    seconds: float
    turns: int
    json: Path | None = None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of them does not exceed: 0.99 of them, say."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> str:
    """Lowest to highest."""
    return f"{min(values):.0f}-{max(values):.0f}"


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print rows of figures under their columns."""
    name = max(map(len, rows), default=0)
    widths = [
        max(len(column), *(len(row[index]) for row in rows.values()))
        for index, column in enumerate(columns)
    ]
    print(f"{title}\n  {'':{name}}" + "".join(f"  {c:>{w}}" for c, w in zip(columns, widths, strict=True)))
    for label, row in rows.items():
        print(f"  {label:{name}}" + "".join(f"  {c:>{w}}" for c, w in zip(row, widths, strict=True)))
    print(flush=True)


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
