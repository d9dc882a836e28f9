"""Server: `nerve serve` as one process, or as several workers that share a port and a supervisor."""

import asyncio
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.engine.runtimes.table import check_installation, choose_runtime
from app.errors import NerveError
from app.machine import SERVER_ID
from app.main import create_app
from app.metrics import Metrics
from app.server.logs import configure_logging
from app.server.metric_files import FOLDER, fold_dead, whole_server
from app.server.protocol import Protocol
from app.server.worker_count import choose_workers
from app.settings import Settings, read_settings

log = logging.getLogger("nerve")

_WORKERS = "NERVE_WORKERS"

_LOAD_FIRST = "NERVE_LOAD_FIRST"
"""Set for workers that take requests only once their models are loaded."""

_HUNG_SECONDS = 60
"""A worker that does not even say that it lives for so long is replaced. Its start counts too, and imports
take their time where many start at once; after them, loading has a time limit of its own."""

_LONG_SECONDS = 600
"""How long a request without a time limit may take once the server shuts down."""

_LAST_SECONDS = 10
"""How much longer than its time limit a request may take then, for its answer to be read. Who never reads
it would keep the server up for ever."""

_ORPHAN_SECONDS = 30
"""How long a worker whose supervisor was killed may take to finish its requests."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then finish what runs.

    Returns:
        The exit code: 0, or another where the server could not start.

    Raises:
        SettingsError: it cannot start like this.
    """
    configure_logging(settings.log_level, settings.log_format)
    check_installation()
    if settings.provider != "auto":
        choose_runtime(settings.provider, settings.allow_cpu_fallback)
    choice = choose_workers(settings)
    log.info("processes: %d (%s)", choice.workers, choice.reason)
    os.environ[_WORKERS] = str(choice.workers)  # where each worker reads its settings from
    settings = settings.model_copy(update={"workers": choice.workers})
    return _run_workers(settings) if settings.workers > 1 else _run_one(settings)


def worker_app() -> FastAPI:
    """The application of one worker; uvicorn calls it in the worker's process."""
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    try:
        app = create_app(settings, Metrics(whole_server))
    except NerveError as error:
        log.error("cannot start: %s", error.message)
        sys.exit(STARTUP_FAILURE)
    _drain_at_signals(app)
    threading.Thread(target=_end_with_supervisor, name="supervisor watch", daemon=True).start()
    app.router.lifespan_context = _announced(app, settings)
    return app


def _config(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=Protocol,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil((settings.request_timeout or _LONG_SECONDS) + _LAST_SECONDS),
        timeout_worker_healthcheck=math.ceil(_HUNG_SECONDS + settings.load_timeout),
    )


# one process


class _Server(uvicorn.Server):
    """A server that is unready at the first signal and exits with 0 when the last request is done."""

    def __init__(self, config: uvicorn.Config, app: FastAPI):
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.draining.set()
        log.info("%s: finishing requests", signal.Signals(sig).name)
        # The base class would raise the signal again at the end, and the exit code be its number.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._app.state.metrics.workers.set(1)
        for server in self.servers:
            for sock in server.sockets:
                _log_address(sock)


def _run_one(settings: Settings) -> int:
    app = create_app(settings)
    server = _Server(_config(app, settings), app)
    server.run()
    return 0 if server.started else 1


def _log_address(sock: socket.socket) -> None:
    host, port = sock.getsockname()[:2]
    log.info("listening on http://%s:%d", host, port)


# the supervisor of several


class _Supervisor(Multiprocess):
    """Starts workers, replaces those that die, and folds what the dead have counted into one file.

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
        # The first worker answers at once, as one process does, and tells whether it is ready. The others
        # share its port and would fail the requests that a ready one could have answered.
        for _ in range(self.processes_num):
            self.processes.append(self._start())
            os.environ[_LOAD_FIRST] = "1"

    def keep_subprocess_alive(self) -> None:
        """One look at the workers. Unlike the base class's it waits for none, so signals are heard."""
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
        except OSError as error:  # the next look will do it
            log.warning("could not put away the metrics of workers that ended: %s", error)
        for place in dead:
            old, self.processes[place] = self.processes[place], self._start()
            code = old.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("worker %d died (%s); %d takes its place", old.pid, how, self.processes[place].pid)

    def terminate_all(self) -> None:
        for sock in self.sockets:  # or callers would queue up where nobody takes them any more
            sock.close()
        super().terminate_all()

    def _start(self) -> Process:
        worker = Process(self.config, self.sockets)
        worker.start()
        return worker

    def _answers(self, worker: Process) -> bool:
        """Whether a worker lives and has said so lately; asks it again."""
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
        return now - heard < _HUNG_SECONDS


def _run_workers(settings: Settings) -> int:
    config = _config("app.server.serve:worker_app", settings)
    listening = config.bind_socket()  # exits with a message where it cannot
    try:
        listening.listen(config.backlog)
    except OSError as error:
        log.error("cannot listen on %s port %d: %s", settings.host, settings.port, error.strerror)
        return STARTUP_FAILURE
    metrics = _metrics_folder()
    try:
        # Workers inherit the environment, and the metrics library reads its own as it is imported.
        os.environ |= {SERVER_ID: uuid.uuid4().hex, FOLDER: str(metrics)}
        supervisor = _Supervisor(config, listening, metrics)
        _log_address(listening)
        supervisor.run()
    finally:
        shutil.rmtree(metrics, ignore_errors=True)
    return STARTUP_FAILURE if supervisor.failed else 0


def _metrics_folder() -> Path:
    """A new folder that workers share their metrics through, in memory where the system has a place there:
    a busy disk would hold up whoever counts."""
    memory = Path("/dev/shm")
    fast = "TMPDIR" not in os.environ and memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="nerve-metrics-", dir=memory if fast else None))


# one of several


def _drain_at_signals(app: FastAPI) -> None:
    """Be unready from the first signal on, then do what the server does at it."""
    for sig in (signal.SIGTERM, signal.SIGINT):
        server = signal.getsignal(sig)

        def drain(sig: int, frame: FrameType | None, server: object = server) -> None:
            if not app.state.draining.is_set():
                log.info("%s: finishing requests", signal.Signals(sig).name)
            app.state.draining.set()
            if callable(server):
                server(sig, frame)

        signal.signal(sig, drain)


def _end_with_supervisor() -> None:
    """Wait for the supervisor's death, which an orderly end never lets a worker see; then end too."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return
    supervisor.join()
    log.error("the supervisor died; ending with it")
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)  # whoever still counts has the files open
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def _announced(app: FastAPI, settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The application's lifespan, with a worker's start around it: load, then count as one that answers."""
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def announced(_: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            if _LOAD_FIRST in os.environ:
                await _until_loaded(app, settings.load_timeout)
            app.state.metrics.workers.set(1)
            yield

    return announced


async def _until_loaded(app: FastAPI, seconds: float) -> None:
    """Wait until every model serves or is known not to, at most so long."""
    manager = app.state.manager

    def loaded() -> bool:
        return all(manager.ready(name) or manager.problem(name) for name in manager.names())

    end = time.monotonic() + seconds
    while not await asyncio.to_thread(loaded) and time.monotonic() < end:
        if app.state.draining.is_set():
            return
        await asyncio.sleep(0.05)
