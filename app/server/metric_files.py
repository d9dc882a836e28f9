"""Metric files let the workers of one server share their metrics, and keep the counts of dead workers.

Each worker counts in its files of one folder, which `prometheus_client` maps into memory; the worker that
is asked reads the files of all. The counts of dead workers move to an archive, one for each kind of metric.
"""

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from prometheus_client import CollectorRegistry, Metric, PlatformCollector, ProcessCollector
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from app.machine import process_start

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Names the environment variable from which `prometheus_client` reads the folder when it is imported."""

_PREFIX = "nerve-metrics-"
_OWNER = "owner"
"""Names the file of a folder on which its server holds a lock; the system frees it with the process."""

LOADED = "loaded_{}"
"""Names the file by which a worker says that its models are loaded; it holds the worker's number."""

_NEW_SECONDS = 60
"""A folder without that file is left alone for so long: its server may be about to make it."""

_ARCHIVE = "archive"
_KEPT = ("counter", "histogram")
_HEADER, _ENTRY = 8, 28
"""Bytes of a file's header, and the most bytes of an entry beside its key; see `MmapedDict`."""

_STAT_CHILDREN_CPU = slice(13, 15)
"""Selects the user and system CPU ticks of ended children in `/proc/<pid>/stat`; see proc(5)."""


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """Make a folder for the workers' metrics, and remove it at the end, and those of servers that were
    killed.

    It is in memory if the system allows it: a busy disk would slow down every count.
    """
    memory = Path("/dev/shm")
    fast = "TMPDIR" not in os.environ and memory.is_dir() and os.access(memory, os.W_OK)
    parent = memory if fast else Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with FileLock(folder / _OWNER):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders whose servers do not live."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            found = folder.lstat()
            if found.st_uid != os.getuid() or folder.is_symlink():
                continue
            if not (folder / _OWNER).exists():
                if time.time() - found.st_mtime < _NEW_SECONDS:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with FileLock(folder / _OWNER, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):  # its server lives, or another server removes it
            continue


def whole_server(process: CollectorRegistry) -> CollectorRegistry:
    """Return the registry with the metrics of the whole server.

    Args:
        process: the registry of this process. A server of one process reads it; a server of several
            workers reads the files of all.
    """
    folder = os.environ.get(FOLDER)
    registry = CollectorRegistry() if folder else process
    PlatformCollector(registry=registry)
    if folder:
        registry.register(AllWorkers(Path(folder)))
        registry.register(ServerProcesses(Path(folder), os.getppid()))
    else:
        ProcessCollector(registry=registry)
    return registry


def fold_dead(folder: Path, alive: Collection[int]) -> None:
    """Move the counts of dead workers into the archive, and remove their files.

    Args:
        alive: process numbers of the workers that live.

    Raises:
        OSError: the disk is full, or the lock was not free within a second; try again later.
    """
    dead = {pid for pid in _pids(folder) if pid not in alive}
    if not dead:
        return
    with _locked(folder, seconds=1):
        for kind in _KEPT:
            files = [path for pid in dead if (path := folder / f"{kind}_{pid}.db").exists()]
            if files:
                _fold(files, folder / f"{kind}_{_ARCHIVE}.db")
        for pid in dead:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
            (folder / LOADED.format(pid)).unlink(missing_ok=True)


class AllWorkers(Collector):
    """Collects the counts of all workers, and the gauges of those that live."""

    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        with _locked(self._folder):
            files = [
                str(path)
                for path in sorted(self._folder.glob("*.db"))
                if path.stat().st_size and not _gone(path)  # a worker that starts has empty files
            ]
            return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]


class ServerProcesses(Collector):
    """Collects the metrics of `ProcessCollector`, summed over the workers and their supervisor.

    The start time is the supervisor's. CPU seconds include ended workers, so that they never fall.
    """

    def __init__(self, folder: Path, supervisor: int):
        self._folder = folder
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, list[float]] = defaultdict(list)
        for pid in {self._supervisor, *_pids(self._folder)}:
            if not process_start(pid):
                continue
            for family in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                families.setdefault(family.name, family)
                values[family.name] += [sample.value for sample in family.samples]
        for name, family in families.items():
            (sample,) = family.samples
            total = min(values[name]) if name == "process_start_time_seconds" else sum(values[name])
            if name == "process_cpu_seconds":
                total += self._ended_cpu_seconds()
            family.samples = [sample._replace(value=total)]
            yield family

    def _ended_cpu_seconds(self) -> float:
        try:
            stat = Path(f"/proc/{self._supervisor}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # the supervisor was killed, and this worker is about to end
            return 0
        return sum(map(int, stat[_STAT_CHILDREN_CPU])) / os.sysconf("SC_CLK_TCK")


def _locked(folder: Path, seconds: float = 10) -> FileLock:
    """Return the lock against reading while files are folded, when counts are missing or double."""
    return FileLock(folder / "lock", timeout=seconds)


def _pids(folder: Path) -> set[int]:
    """Return the process numbers that have files."""
    owners = {path.stem.rpartition("_")[2] for path in folder.glob("*.db")}
    return {int(owner) for owner in owners if owner != _ARCHIVE}


def _gone(path: Path) -> bool:
    """Say whether a file has the gauges of a worker that died and is not folded yet."""
    return path.name.startswith("gauge") and not process_start(int(path.stem.rpartition("_")[2]))


def _fold(files: list[Path], archive: Path) -> None:
    sums: dict[str, float] = defaultdict(float)
    for path in [archive, *files] if archive.exists() else files:
        if path.stat().st_size:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
                sums[key] += value
    new = archive.with_suffix(".new")
    # Reserve the space first: a full disk raises an error here, and kills the process in `write_value`.
    new.write_bytes(bytes(_HEADER + sum(len(key.encode()) + _ENTRY for key in sums)))
    written = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    new.rename(archive)
    for path in files:
        path.unlink()
