"""Descriptors of files are shared out between connections and the server's own needs."""

import logging
import os
from pathlib import Path

from app.settings import Settings

log = logging.getLogger("nerve")

_OWN = 96
"""Descriptors that stay free for models, the desired state, pipes to processes that check versions, and
connections that are being refused."""

_EACH = 2
"""Descriptors of a connection: its socket, and the file of a stream whose answers wait."""

_MOST = 4_096
"""Connections where the system sets no lower limit. A connection can hold a head of 64 KiB."""

_ENOUGH = 1 << 20
"""Descriptors that are asked for where the system allows any number."""

_OPEN = Path("/proc/self/fd")


def most_connections(settings: Settings) -> int:
    """Raise this process's limit of descriptors, and return how many connections it may have."""
    wanted = settings.max_connections or _MOST
    limit = _raise_limit()
    if limit is None:
        return wanted
    fit = max(1, (limit - _open() - _OWN) // _EACH)
    if fit < settings.max_connections:
        log.warning(
            "NERVE_MAX_CONNECTIONS=%d needs more file descriptors than %d (ulimit -n); taking %d",
            settings.max_connections,
            limit,
            fit,
        )
    return min(wanted, fit)


def _raise_limit() -> int | None:
    """Raise the limit as far as the system allows, and return it; None if the system has none."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS refuses more than its own limit
        return soft
    return wanted


def _open() -> int:
    try:
        return len(os.listdir(_OPEN))
    except OSError:  # there is no /proc
        return 32
