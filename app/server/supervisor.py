"""Supervisor starts the workers of a server, replaces those that die, and ends them all."""

import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.machine import SERVER_ID
from app.server.metric_files import FOLDER, fold_dead
from app.server.process import HUNG_SECONDS, log_address, uvicorn_config
from app.server.worker import LOAD_FIRST
from app.settings import Settings

log = logging.getLogger("nerve")

WORKER = "app.server.worker:worker_app"
"""Names the function that a worker's process imports and calls to make its application."""


class _Supervisor(Multiprocess):
    """Starts workers, replaces those that die, and keeps the counts of dead workers.

    Attributes:
        failed: whether it ended because no worker could start.
    """

    def __init__(self, config: uvicorn.Config, listening: socket.socket, metrics: Path):
        super().__init__(config, [listening])
        self.failed = False
        self._metrics = metrics
        self._served = False
        self._heard: dict[Process, float] = {}

    def init_processes(self) -> None:
        # The first worker takes requests at once, to answer whether the server is ready. The others load
        # first, because they share its port and would fail requests that a ready worker could answer.
        for _ in range(self.processes_num):
            self.processes.append(self._start())
            os.environ[LOAD_FIRST] = "1"

    def keep_subprocess_alive(self) -> None:
        """Check the workers once. Unlike the base class it waits for none, so that signals are handled."""
        if self.should_exit.is_set():
            return
        self._heard = {worker: heard for worker, heard in self._heard.items() if worker in self.processes}
        dead = [place for place, worker in enumerate(self.processes) if not self._answers(worker)]
        for place in dead:
            worker = self.processes[place]
            worker.kill()
            worker.join()
            self._heard.pop(worker, None)
            code = worker.exitcode or 0
            if code >= 0 and not self._served:
                log.error("worker %d could not start (exit code %d); see above", worker.pid, code)
                self.failed = True
                self.should_exit.set()
                return
        gone = [self.processes[place].pid for place in dead]
        try:
            fold_dead(self._metrics, {p.pid for p in self.processes if p.pid and p.pid not in gone})
        except OSError as error:  # the next check tries again
            log.warning("could not put away the metrics of workers that ended: %s", error)
        for place in dead:
            old, self.processes[place] = self.processes[place], self._start()
            code = old.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("worker %d died (%s); %d takes its place", old.pid, how, self.processes[place].pid)

    def terminate_all(self) -> None:
        for sock in self.sockets:  # otherwise new connections would wait for workers that have ended
            sock.close()
        super().terminate_all()

    def _start(self) -> Process:
        worker = Process(self.config, self.sockets)
        worker.start()
        return worker

    def _answers(self, worker: Process) -> bool:
        """Say whether a worker lives and has answered lately; ask it again."""
        if not worker.process.is_alive():
            return False
        now = time.monotonic()
        heard = self._heard.setdefault(worker, now)
        try:
            while worker.parent_conn.poll():
                self._served |= worker.parent_conn.recv()
                heard = self._heard[worker] = now
            worker.parent_conn.send(b"ping")
        except (OSError, EOFError):  # it has just died
            return False
        return now - heard < HUNG_SECONDS


def run_workers(settings: Settings) -> int:
    """Serve in several processes, and supervise them; return the exit code."""
    config = uvicorn_config(WORKER, settings)
    listening = config.bind_socket()  # exits with a message if the address is taken
    try:
        listening.listen(config.backlog)
    except OSError as error:
        log.error("cannot listen on %s port %d: %s", settings.host, settings.port, error.strerror)
        return STARTUP_FAILURE
    metrics = _metrics_folder()
    try:
        # Workers inherit the environment; the metrics library reads `FOLDER` when it is imported.
        os.environ |= {SERVER_ID: uuid.uuid4().hex, FOLDER: str(metrics)}
        supervisor = _Supervisor(config, listening, metrics)
        log_address(listening)
        supervisor.run()
    finally:
        shutil.rmtree(metrics, ignore_errors=True)
    return STARTUP_FAILURE if supervisor.failed else 0


def _metrics_folder() -> Path:
    """Make a folder for the workers' metrics, in memory if the system allows it: a busy disk would slow
    down every count."""
    memory = Path("/dev/shm")
    fast = "TMPDIR" not in os.environ and memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="nerve-metrics-", dir=memory if fast else None))
