"""Supervisor starts the workers of a server, replaces those that die, and ends them all."""

import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.machine import SERVER_ID
from app.server.ending import ENDING, OUT_OF_TIME
from app.server.metric_files import FOLDER, fold_dead, metrics_folder
from app.server.process import HUNG_SECONDS, end_seconds, listen, log_address, uvicorn_config
from app.server.worker import LOAD_AFTER
from app.settings import Settings

log = logging.getLogger("nerve")

WORKER = "app.server.worker:worker_app"
"""Names the function that a worker's process imports and calls to make its application."""

_LAST_SECONDS = 2
"""Seconds beyond those in which a worker ends by itself; then it is killed."""

_POLL_SECONDS = 0.05
"""Seconds between two checks whether all workers have ended."""


class _Worker(Process):
    """Is one worker, as its supervisor sees it.

    Attributes:
        started: whether it takes requests.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]):
        super().__init__(config, sockets)
        self.started = False
        self._begun = self._heard = time.monotonic()
        self._ends_by = float("inf")

    def answers(self) -> bool:
        """Say whether it lives and has answered lately; ask it again."""
        if not self.process.is_alive():
            return False
        now = time.monotonic()
        try:
            while self.parent_conn.poll():
                self.started |= self.parent_conn.recv()
                self._heard = now
            self.parent_conn.send(b"ping")
        except (OSError, EOFError):  # it has just died
            return False
        return now - self._heard < HUNG_SECONDS

    def late(self) -> bool:
        """Say whether it should have started long ago."""
        return not self.started and time.monotonic() - self._begun > self.config.timeout_worker_healthcheck

    def retire(self, seconds: float) -> None:
        """Have it finish its requests and end within some seconds."""
        self._ends_by = time.monotonic() + seconds
        self.terminate()

    def ended(self) -> bool:
        """Say whether it has ended; end it if it is late."""
        if self.process.is_alive() and time.monotonic() > self._ends_by:
            log.error("worker %d did not end in time; it is killed", self.pid)
            self.kill()
            self.join()
        return not self.process.is_alive()


class _Supervisor(Multiprocess):
    """Starts workers, replaces those that die, and keeps the counts of dead workers.

    Attributes:
        code: the exit code of the server.
    """

    processes: list[_Worker]  # type: ignore[assignment]

    def __init__(self, config: uvicorn.Config, listening: socket.socket, metrics: Path, seconds: float):
        super().__init__(config, [listening])
        self.code = 0
        self._metrics = metrics
        self._seconds = seconds  # in which a worker ends
        self._served = False
        self._old: list[_Worker] = []  # to be replaced
        self._new: _Worker | None = None  # replaces the first of them once it has started
        self._retiring: list[_Worker] = []

    def init_processes(self) -> None:
        # The first worker takes requests at once, to answer whether the server is ready. The others load
        # first, because they share its port and would fail requests that a ready worker could answer.
        for _ in range(self.processes_num):
            self.processes.append(self._start())
            os.environ.setdefault(LOAD_AFTER, str(self.processes[0].pid))

    def restart_all(self) -> None:
        """Replace every worker, one after the other; `keep_subprocess_alive` does it step by step."""
        log.info("SIGHUP: replacing %d workers", len(self.processes))
        self._old = list(self.processes)

    def keep_subprocess_alive(self) -> None:
        """Check the workers once. Unlike the base class it waits for none, so that signals are handled."""
        if self.should_exit.is_set():
            return
        dead = [worker for worker in self.processes if not worker.answers()]
        for worker in dead:
            worker.kill()
            worker.join()
            if (worker.exitcode or 0) >= 0 and not self._served and not worker.started:
                log.error(
                    "worker %d could not start (exit code %d); see above", worker.pid, worker.exitcode
                )
                self.code = STARTUP_FAILURE
                self.should_exit.set()
                return
        self._served |= any(worker.started for worker in self.processes)
        self._retiring = [worker for worker in self._retiring if not worker.ended()]
        self._keep_counts(dead)
        for worker in dead:
            new = self._start()
            self.processes[self.processes.index(worker)] = new
            log.error("worker %d died (%s); %d takes its place", worker.pid, _how(worker), new.pid)
        self._go_on_replacing()

    def terminate_all(self) -> None:
        for sock in self.sockets:  # otherwise new connections would wait for workers that have ended
            sock.close()
        if self._new:
            self._new.kill()
            self._new.join()
        for worker in self.processes:
            worker.retire(self._seconds)

    def join_all(self) -> None:
        """Wait until all workers have ended. A second signal kills them."""
        self.signal_queue.clear()
        left = self.processes + self._retiring
        while left := [worker for worker in left if not worker.ended()]:
            again = [sig for sig in self.signal_queue if sig in ENDING]
            if again:
                log.error(
                    "second signal (%s); requests that run are lost: killing %d workers",
                    signal.Signals(again[0]).name,
                    len(left),
                )
                self.code = 128 + again[0]
                for worker in left:
                    worker.kill()
                    worker.join()
                return
            time.sleep(_POLL_SECONDS)
        if any(worker.exitcode in (-signal.SIGKILL, OUT_OF_TIME) for worker in self.processes):
            self.code = self.code or OUT_OF_TIME

    def _start(self) -> _Worker:
        worker = _Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _go_on_replacing(self) -> None:
        """Start the successor of the next worker that is to be replaced, or put it in its place once it has
        started. Workers follow one another, so that memory must hold only one more."""
        self._old = [worker for worker in self._old if worker in self.processes]
        new = self._new
        if new is None:
            if self._old and not self._retiring:
                self._new = self._start()
            return
        if not new.answers() or new.late():
            new.kill()
            new.join()
            self._new, self._old = None, []
            log.error("worker %d did not start (%s); no more are replaced", new.pid, _how(new))
        elif not self._old:  # the one that it should replace has died, and was replaced
            self._new = None
            self._retire(new)
        elif new.started:
            old = self._old.pop(0)
            self.processes[self.processes.index(old)], self._new = new, None
            log.info("worker %d replaces %d, which finishes its requests", new.pid, old.pid)
            self._retire(old)

    def _retire(self, worker: _Worker) -> None:
        worker.retire(self._seconds)
        self._retiring.append(worker)

    def _keep_counts(self, dead: Collection[_Worker]) -> None:
        """Put the counts of workers that ended into the archive."""
        living = [*self.processes, *self._retiring, *([self._new] if self._new else ())]
        try:
            fold_dead(self._metrics, set(_pids(worker for worker in living if worker not in dead)))
        except OSError as error:  # the next check tries again
            log.warning("could not put away the metrics of workers that ended: %s", error)


def _pids(workers: Iterable[_Worker]) -> Iterable[int]:
    return (worker.pid for worker in workers if worker.pid)


def _how(worker: _Worker) -> str:
    code = worker.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def run_workers(settings: Settings, listening: socket.socket) -> int:
    """Serve in several processes, and supervise them; return the exit code."""
    config = uvicorn_config(WORKER, settings)
    listen(listening, settings)
    with metrics_folder() as metrics:
        # Workers inherit the environment; the metrics library reads `FOLDER` when it is imported.
        os.environ |= {SERVER_ID: uuid.uuid4().hex, FOLDER: str(metrics)}
        supervisor = _Supervisor(config, listening, metrics, end_seconds(settings) + _LAST_SECONDS)
        log_address(listening)
        supervisor.run()
    return supervisor.code
