"""Worker count chooses the number of processes that serve, from the interpreter time of a request.

All Python of a request (HTTP, JSON, tokenizing, decoding, the log) runs under the interpreter lock of its
process; the network runs without it. Let a sentence take `i` seconds of the interpreter, and `n` seconds of
a CPU for the network. Then `c` CPUs can answer `c / (i + n)` sentences a second, and one process at most
`1 / i`. With many CPUs one process leaves some of them idle; with few, more processes only make batches
smaller and take more memory. The number of CPUs between the two depends on the model.
"""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic_core import to_json

from app.engine.batching.report import BatchReport
from app.engine.model import Model
from app.engine.runtimes.table import choose_runtime
from app.errors import NerveError, NotFound, NotReady
from app.machine import available_cpus
from app.processes import own_process
from app.rendering import render
from app.server.memory import hold_little
from app.settings import Settings
from app.versions.loading.from_settings import load_options
from app.versions.loading.loader import load_version
from app.versions.rollout.store import DeploymentStore, version_to_serve
from app.versions.storage.repository import Repository

_FEW = 4
"""With fewer CPUs than this, one process serves and nothing is measured: one is best for nearly all models,
and measuring takes half a second at the start."""

_HTTP = 3.0
"""The interpreter time of a request is this many times that of its tokenizing, decoding and rendering. The
rest is HTTP, batching, waking threads and the log; docs/performance.md says how the number was found."""

_BUSY = 0.85
"""An interpreter may be busy for this part of the time; beyond it, requests wait for the interpreter."""

_MEMORY = 0.5
"""Processes may take this part of the free memory at the start; the rest is for requests."""

_SENTENCES = 16
_ROUNDS = 5
_JOINED = 3
"""Golden texts are short: this many together are about as long as a sentence of news."""

_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


@dataclass(frozen=True)
class Choice:
    """Holds the number of processes, and the reason for people."""

    workers: int
    reason: str


@dataclass(frozen=True)
class Demand:
    """Holds what a sentence and a process take.

    Attributes:
        interpreter: seconds of the interpreter for a sentence.
        network: seconds of one CPU for a sentence.
        memory: bytes of a process that has loaded the model; 0 if unknown.
    """

    interpreter: float
    network: float
    memory: int = 0


def choose_workers(settings: Settings) -> Choice:
    """Return the number of processes: `NERVE_WORKERS` if it is set, else as `workers_for` says."""
    if settings.workers:
        return Choice(settings.workers, "NERVE_WORKERS says so")
    cpus = available_cpus()
    most = cpus // (settings.threads or 1)
    if cpus < _FEW or most < 2:
        why = (
            f"too few to measure, below {_FEW}" if cpus < _FEW else "NERVE_THREADS takes all in one process"
        )
        return Choice(1, f"{cpus} CPUs; {why}")
    try:
        runtime = choose_runtime(settings.provider, settings.allow_cpu_fallback)
        if runtime.single_process:
            return Choice(1, runtime.single_process)
        demand = measure_apart(settings)
    except NerveError as error:
        return Choice(1, f"what a sentence takes could not be measured: {error.message}")
    return workers_for(demand, cpus, most, free_memory())


def workers_for(demand: Demand, cpus: int, most: int, memory: int | None = None) -> Choice:
    """Return the fewest processes that keep no interpreter busy for more than `_BUSY` of the time.

    Args:
        most: the largest number of processes that the CPUs allow.
        memory: bytes that are free; None if unknown.
    """
    share = demand.interpreter / (demand.interpreter + demand.network)
    wanted = min(most, max(1, math.ceil(cpus * share / _BUSY)))
    reason = (
        f"{cpus} CPUs; a sentence takes {1e3 * demand.interpreter:.2f} ms of the interpreter and "
        f"{1e3 * demand.network:.2f} ms of a CPU for the network"
    )
    if memory is not None and demand.memory:
        fit = max(1, int(_MEMORY * memory / demand.memory))
        if fit < wanted:
            return Choice(fit, f"{reason}; memory is free for no more")
    return Choice(wanted, reason)


def measure_apart(settings: Settings) -> Demand:
    """Do as `measure` in a separate process, so that a broken version cannot stop the server's start.

    Raises:
        NotReady: the process failed, or took longer than loading may.
    """
    command, environment = own_process("app.server.worker_count")
    try:
        done = subprocess.run(
            command,
            input=settings.model_dump_json().encode(),
            capture_output=True,
            env=environment,
            timeout=settings.load_timeout,
            check=True,
        )
        return Demand(**json.loads(done.stdout))
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise NotReady(said or f"the process that measures ended with {error.returncode}") from None
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        raise NotReady(str(error)) from error


def measure(settings: Settings) -> Demand:
    """Measure what a sentence takes with the version that should serve, on one thread.

    Raises:
        NerveError: the version is missing, or cannot be loaded or measured.
    """
    name, repository = settings.default_model, Repository(settings.models_dir)
    version = version_to_serve(name, repository, DeploymentStore(settings.state_folder))
    options = replace(load_options(settings), threads=1)
    reports: list[BatchReport] = []
    loaded = load_version(repository.path(name, version), options, reports.append)
    try:
        golden = [one.text for one in loaded.manifest.golden]
        if not golden:
            raise NotFound(f"{name}/{version} has no golden texts to measure with")
        texts = [
            " ".join(golden[(at + more) % len(golden)] for more in range(_JOINED))
            for at in range(_SENTENCES)
        ]
        memory = _resident()
        reports.clear()  # those of the self-test at loading do not count
        render = sum(_round(loaded.model, texts) for _ in range(_ROUNDS))
    finally:
        loaded.close()  # it waits for the last report
    python = render + sum(report.tokenize_seconds + report.decode_seconds for report in reports)
    network = sum(report.seconds for report in reports)
    count = _ROUNDS * _SENTENCES
    return Demand(_HTTP * python / count, network / count, memory)


def _round(model: Model, texts: list[str]) -> float:
    """Answer texts as one caller each at the same time; return the seconds that rendering took."""
    waiting = [model.submit([text]) for text in texts]
    answers = [future.result()[0] for future in waiting]
    started = time.perf_counter()
    for text, answer in zip(texts, answers, strict=True):
        to_json(render(text, answer.entities))
    return time.perf_counter() - started


def free_memory() -> int | None:
    """Return how many bytes new processes can take; None if the system does not say."""
    free = []
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        free.append(1024 * int(fields["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):
        pass
    for limit, used in _CGROUPS:
        try:
            free.append(max(0, int(limit.read_text()) - int(used.read_text())))
        except (OSError, ValueError):  # no such cgroup, or no limit
            continue
    return min(free, default=None)


def _resident() -> int:
    try:
        import resource

        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, ImportError):
        return 0


def _main() -> None:
    """Measure with the settings that standard input has as JSON, and print the result as JSON."""
    hold_little()
    try:
        demand = measure(Settings.model_validate_json(sys.stdin.buffer.read()))
    except NerveError as error:
        sys.exit(error.message)
    print(json.dumps(asdict(demand)), flush=True)
    os._exit(0)  # exit at once: nothing needs closing


if __name__ == "__main__":
    _main()
