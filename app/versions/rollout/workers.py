"""Workers: reports of how far each serving process has followed the desired state.

Each process writes one file in `<state dir>/workers/`, so a caller who changes the state can see which
processes have followed. The file of a dead process is removed by the next process that reads the folder.
"""

import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.files import OddFile, read_bytes, write_whole
from app.machine import host, process_start, server_id

_MOST_BYTES = 16 * 1024**2
"""Most bytes of a report, which has some hundred for each model."""

_HEARTBEAT = 10.0
"""Seconds after which an unchanged report is written again, to show that the process lives."""

_SILENT = 60.0
"""Seconds without a report after which a process on another machine counts as dead. For this machine, the
operating system says which processes live."""


class ModelReport(BaseModel):
    """Holds what one process serves of one model."""

    model_config = ConfigDict(frozen=True)

    generation: int = Field(description="of the deployment that it has carried out, as far as it could")
    stable: int | None = None
    canary: int | None = None
    shadow: tuple[int, ...] = ()
    unchecked: tuple[int, ...] = Field((), description="versions whose checks came to no outcome yet")
    problem: str | None = Field(None, description="why it serves something else than it should")


class WorkerReport(BaseModel):
    """Holds what one process serves."""

    model_config = ConfigDict(frozen=True)

    server: str = Field(description="the server that it is a worker of")
    host: str
    pid: int
    started: str = Field(
        description="when the system says that the process began; tells reused numbers apart"
    )
    models: dict[str, ModelReport] = {}

    @property
    def alive(self) -> bool:
        """Say whether the process runs; on another machine it is taken to run."""
        return self.host != host() or self.started == process_start(self.pid)


class Lagging(BaseModel):
    """A worker that has not carried out a change."""

    model_config = ConfigDict(frozen=True)

    worker: str = Field(description="host and process number", examples=["web-1:4711"])
    reason: str = Field(description="what keeps it", examples=["still loading"])


class Workers:
    """Writes and reads the reports in one state folder."""

    def __init__(self, state: Path):
        self._folder = state / "workers"
        self._own: WorkerReport | None = None
        self._written = 0.0

    def report(self, models: dict[str, ModelReport]) -> None:
        """Write what this process serves, if it has changed or the last report is old.

        Raises:
            OSError: the folder cannot be written.
        """
        own = WorkerReport(
            server=server_id(),
            host=host(),
            pid=os.getpid(),
            started=process_start(os.getpid()),
            models=models,
        )
        now = time.monotonic()
        if own == self._own and now - self._written < _HEARTBEAT:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(own), own.model_dump_json() + "\n")
        self._own, self._written = own, now

    def remove(self) -> None:
        """Remove the report of this process, when it ends."""
        if self._own:
            self._path(self._own).unlink(missing_ok=True)

    def read(self) -> list[WorkerReport]:
        """Return the reports of living processes, and remove those of dead ones."""
        reports = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                report = WorkerReport.model_validate_json(read_bytes(path, _MOST_BYTES))
                silent = report.host != host() and time.time() - path.stat().st_mtime > _SILENT
            except (OSError, OddFile, ValidationError):  # removed meanwhile, or not a report
                continue
            if silent or not report.alive:
                path.unlink(missing_ok=True)
            else:
                reports.append(report)
        return reports

    def lagging(self, name: str, generation: int, server: str | None = None) -> list[Lagging]:
        """Return the workers that have not carried out a generation of a model's deployment, and why.

        Args:
            server: only the workers of this server.
        """
        found = []
        for worker in self.read():
            if server not in (None, worker.server):
                continue
            model = worker.models.get(name)
            if model and model.generation >= generation and not model.problem:
                continue
            reason = model.problem if model and model.problem else "has not followed yet"
            found.append(Lagging(worker=f"{worker.host.partition('/')[0]}:{worker.pid}", reason=reason))
        return found

    def wait(
        self,
        name: str,
        generation: int,
        seconds: float,
        server: str | None = None,
    ) -> list[Lagging]:
        """Wait up to `seconds` for a generation; return the workers that are then still lagging."""
        end = time.monotonic() + seconds
        while (late := self.lagging(name, generation, server)) and time.monotonic() < end:
            time.sleep(0.05)
        return late

    def _path(self, report: WorkerReport) -> Path:
        return self._folder / f"{report.server}-{report.pid}.json"
