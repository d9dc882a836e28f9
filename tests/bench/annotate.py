"""Records a second of `nerve annotate` on a JSONL corpus, its start left out, beside the limit."""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from tests.bench.offline import Offline
from tests.bench.report import Options, spread, table
from tests.bench.throughput import described
from tests.servers import NERVE, environment

LENGTH = 2.5
"""How long a turn of the command is, in turns of what is compared: it takes a while to get going."""


@dataclass(frozen=True)
class Turn:
    """One run of the command, in seconds: by the clock, and of the processors."""

    seconds: float
    cpu: float


def run(options: Options) -> None:
    version = max(int(folder.name) for folder in (options.models / options.model).glob("[1-9]*"))
    offline = Offline(options, version)
    setting = offline.best_setting(options.texts)
    count = max(2, int(LENGTH * options.seconds * offline.rate(options.texts, setting)))
    limits: list[float] = []
    starts: list[Turn] = []
    whole: list[Turn] = []
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder) / "one.jsonl", Path(folder) / "many.jsonl"
        _write(one, options.texts, 1)
        _write(many, options.texts, count)
        _annotate(one, version, options)  # fills the disk's cache
        for _ in range(options.turns):
            limits.append(offline.rate(options.texts, setting, options.seconds / 2))
            starts.append(_annotate(one, version, options))
            whole.append(_annotate(many, version, options))
            limits.append(offline.rate(options.texts, setting, options.seconds / 2))
    start, limit = median(turn.seconds for turn in starts), median(limits)
    rates = [(count - 1) / (turn.seconds - start) for turn in whole]
    busy = [
        (turn.cpu - first.cpu) / (turn.seconds - first.seconds)
        for turn, first in zip(whole, starts, strict=True)
    ]
    table(
        f"Annotate: {count} records, {described(options.texts)} again and again, "
        f"{offline.variant.precision} on {offline.provider}, medians of {options.turns} turns; "
        f"start {start:.2f} s, left out",
        ("records/s", "of limit", "CPUs busy", "spread"),
        {
            f"limit ({setting})": [f"{limit:.0f}", "100 %", "", spread(limits)],
            "nerve annotate": [
                f"{median(rates):.0f}",
                f"{100 * median(rates) / limit:.0f} %",
                f"{median(busy):.2f}",
                spread(rates),
            ],
        },
    )


def _write(path: Path, texts: tuple[str, ...], count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(islice(cycle(texts), count), 1):
            file.write(json.dumps({"id": number, "text": text}) + "\n")


def _annotate(source: Path, version: int, options: Options) -> Turn:
    """The real command, on all processors, to its end."""
    command = [NERVE, "annotate", source, "-o", source.with_suffix(".out.jsonl"), "--force"]
    env = environment(options.models, default_model=options.model, threads=0)
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [*command, "--version", str(version)], env=env, check=False, capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise RuntimeError(f"nerve annotate ended with {done.returncode}: {done.stderr[-2_000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Turn(seconds, cpu)
