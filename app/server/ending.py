"""Ending makes sure that a process ends after a signal, whatever hangs in it.

A signal's handler in Python waits for the main thread, which may be in a library that never returns. So a
thread of its own hears of signals from the system.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

log = logging.getLogger("nerve")

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a server."""

OUT_OF_TIME = 124
"""The exit code of a process that did not end in time; timeout(1) has the same."""

_TWICE_SECONDS = 0.5
"""A second signal sooner than this is the first once more: timeout(1) and terminals send one to a process
and to its group."""

_SAY_SECONDS = 1.0
"""Seconds that the last line of the log may take; nobody may read it."""


def end_in_time(seconds: float, impatient: bool) -> None:
    """Have this process end `seconds` after a signal; call it on the main thread, in the event loop.

    Args:
        impatient: also end at once at a second signal. Workers do not, as they may get the first from their
            group and from their supervisor.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    loop = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    wakes = os.dup(loop) if loop >= 0 else None
    threading.Thread(
        target=_watch, args=(heard, told, wakes, seconds, impatient), name="ending", daemon=True
    ).start()


def _watch(
    heard: socket.socket, told: socket.socket, wakes: int | None, seconds: float, impatient: bool
) -> None:
    """Wait for signals, and tell the event loop of each.

    Args:
        told: the other end, which lives as long as this thread.
    """
    started: float | None = None
    while True:
        if started is not None:
            heard.settimeout(max(0.001, started + seconds - time.monotonic()))
        try:
            signals = heard.recv(64)
        except TimeoutError:
            leave(OUT_OF_TIME, f"not ended within {seconds:g} s after the signal; something hangs")
            return
        if wakes is not None:
            _pass_on(wakes, signals)
        for sig in _ending(signals):
            if started is None:
                started = time.monotonic()
            elif impatient and time.monotonic() - started > _TWICE_SECONDS:
                leave(128 + sig, f"second signal ({signal.Signals(sig).name}); requests that run are lost")


def _ending(signals: bytes) -> Iterable[int]:
    return (sig for sig in signals if sig in ENDING)


def _pass_on(wakes: int, signals: bytes) -> None:
    with suppress(OSError):  # the loop has ended, or has enough to wake up for
        os.write(wakes, signals)


def leave(code: int, why: str) -> None:
    """End this process at once."""
    saying = threading.Thread(
        target=log.error, args=("%s: ending now (exit code %d)", why, code), daemon=True
    )
    saying.start()  # whoever holds the log's lock may hang, too
    saying.join(_SAY_SECONDS)
    os._exit(code)
