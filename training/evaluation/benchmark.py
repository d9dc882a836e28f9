"""The benchmark measures the size and the speed of versions side by side on this machine.

Versions take turns in rounds, so that other load on the machine slows all of them. Each runs once untimed
before its turn, to replace the previous version's data in the caches.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from app.machine import available_cpus
from app.manifest import read_manifest
from training.evaluation.sentences import SENTENCES
from training.evaluation.timed import Timed, encoder_in_torch, version_as_served
from training.recipe import Recipe


@dataclass(frozen=True)
class Speed:
    """Holds the size of a network and its speed on this machine.

    Attributes:
        precision: of the weights, `int8`, `fp16` or `fp32`.
        runtime: `onnxruntime` or `torch`.
        threads: number of threads of each session.
        parameters: number of parameters in the version's lineage, or of numbers in its ONNX file.
        bytes: size of the ONNX file (of all files of an ensemble), or of PyTorch's parameters.
        tokens_per_second: sub-tokens a second of the network alone, in batches of 32 rows of 32
            sub-tokens; median. An ensemble's networks run one after the other.
        milliseconds_per_sentence: time from a sentence to its entities, one at a time; median.
    """

    name: str
    precision: str
    runtime: str
    threads: int
    parameters: int
    bytes: int
    tokens_per_second: float
    milliseconds_per_sentence: float


def measure_together(
    folders: Sequence[Path],
    rounds: int = 7,
    threads: int = 0,
    names: Sequence[str] = (),
    variants: Sequence[str] = (),
    teacher: Recipe | None = None,
) -> list[Speed]:
    """Measure versions, in their order, then a recipe's teacher in PyTorch.

    Args:
        rounds: number of turns of each version; the results are medians over all rounds.
        threads: number of threads of each session; 0 means `available_cpus()`.
        names: the names of the versions; by default `<name>/<version>`.
        variants: the precision of each version; by default the one that the server would load.
        teacher: a recipe whose encoder is timed too, see `encoder_in_torch`.

    Raises:
        ValueError: `rounds` is below 1.
        VersionRefused: a version fails its checks.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least one is needed to measure anything")
    names = names or [f"{folder.parent.name}/{folder.name}" for folder in folders]
    with ExitStack() as stack:
        timed = [
            version_as_served(folder, name, threads, variant, stack)
            for folder, name, variant in zip(folders, names, variants or ["auto"] * len(names), strict=True)
        ]
        if teacher:
            timed.append(encoder_in_torch(teacher, threads or available_cpus(), stack))
        return _race(timed, rounds)


def _race(timed: Sequence[Timed], rounds: int) -> list[Speed]:
    batches: list[list[float]] = [[] for _ in timed]
    sentences: list[list[float]] = [[] for _ in timed]
    for number in range(rounds):
        order = range(len(timed)) if number % 2 == 0 else range(len(timed) - 1, -1, -1)
        for at in order:
            one = timed[at]
            one.batch()
            batches[at].append(_seconds(one.batch))
            one.sentence(SENTENCES[0])
            sentences[at] += [_seconds(one.sentence, text) for text in SENTENCES]
    return [
        Speed(
            one.name,
            one.precision,
            one.runtime,
            one.threads,
            one.parameters,
            one.bytes,
            round(one.tokens / median(batches[at]), 1),
            round(1000 * median(sentences[at]), 3),
        )
        for at, one in enumerate(timed)
    ]


def _seconds(call: Callable[..., object], *arguments: str) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def recorded_f1(folders: Sequence[Path]) -> dict[str, float]:
    """Read the average test F1 in percent from manifests that have one, by `<name>/<version>`."""
    manifests = {f"{folder.parent.name}/{folder.name}": read_manifest(folder) for folder in folders}
    return {
        name: manifest.metrics["test"]["average_f1"]
        for name, manifest in manifests.items()
        if "average_f1" in manifest.metrics.get("test", {})
    }


def family_table(rows: Sequence[Speed], f1: Mapping[str, float] | None = None) -> str:
    """Format sizes and speeds as a Markdown table, with factors against the first row.

    Args:
        f1: average F1 in percent by name; None leaves its column out.
    """
    head = [
        "network",
        "runs in",
        "parameters",
        "MB",
        "times smaller",
        "sub-tokens/s",
        "ms a sentence",
        "faster in batches",
        "faster alone",
    ]
    marks = ["---", "---", *["---:"] * 7]
    if f1 is not None:
        head.insert(1, "F1")
        marks.insert(1, "---:")
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(marks)}|"]
    for row in rows:
        first = rows[0]
        cells = [
            row.name,
            f"{row.runtime} {row.precision}",
            f"{row.parameters / 1e6:.2f}M",
            f"{row.bytes / 1e6:.1f}",
            f"{first.bytes / row.bytes:.1f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.milliseconds_per_sentence:.2f}",
            f"{row.tokens_per_second / first.tokens_per_second:.1f}",
            f"{first.milliseconds_per_sentence / row.milliseconds_per_sentence:.1f}",
        ]
        if f1 is not None:
            cells.insert(1, f"{f1[row.name]:.2f}" if row.name in f1 else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
