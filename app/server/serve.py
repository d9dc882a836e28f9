"""Serve runs the server as one process, or as several workers that share a port and a supervisor."""

import logging
import os

from app.engine.runtimes.table import check_installation, choose_runtime
from app.server.logs import configure_logging
from app.server.process import bind
from app.server.single import run_single
from app.server.supervisor import run_workers
from app.server.worker_count import choose_workers
from app.settings import Settings

log = logging.getLogger("nerve")

_WORKERS = "NERVE_WORKERS"


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests that run.

    Returns:
        The exit code: 0, or another if the server could not start.

    Raises:
        SettingsError: the server cannot start with these settings, or its address is taken.
    """
    configure_logging(settings.log_level, settings.log_format)
    check_installation()
    if settings.provider != "auto":
        choose_runtime(settings.provider, settings.allow_cpu_fallback)
    listening = bind(settings)
    choice = choose_workers(settings)
    log.info("processes: %d (%s)", choice.workers, choice.reason)
    os.environ[_WORKERS] = str(choice.workers)  # each worker reads its settings from the environment
    settings = settings.model_copy(update={"workers": choice.workers})
    return (run_workers if settings.workers > 1 else run_single)(settings, listening)
