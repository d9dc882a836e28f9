"""A sandbox load is the first load of a version, in a separate process that cannot harm the server.

A damaged file may crash a runtime, take all memory, or never finish loading. The separate process has
limits of memory and time, runs at low priority, and is the first to be killed if the machine runs out of
memory. When it ends, all its memory is free again.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from app.errors import NerveError, NotReady, VersionRefused
from app.manifest import Manifest
from app.processes import own_process
from app.versions.loading.loader import Loader
from app.versions.loading.options import LoadOptions
from app.versions.loading.refusals import where_of
from app.versions.storage.signatures import check_signature

NICE = 10
"""Nice value of the process, which gives it a tenth of a busy processor. With less, a good version would
run out of time on a busy server."""

_POLL_SECONDS = 0.1
"""Seconds between two checks of `stop` and of the time limit."""

_PR_SET_PDEATHSIG = 1  # of prctl(2)


class _Order(BaseModel):
    """Says what the process should load, as one JSON object on its standard input.

    Attributes:
        parent: id of the process that waits for the outcome; the sandbox ends when that process does.
    """

    folder: Path
    models: Path | None
    options: LoadOptions
    parent: int


class _Answer(BaseModel):
    """Holds the outcome, as one JSON object on the process's standard output.

    Attributes:
        refused: why the version is refused; None if it passed.
    """

    refused: str | None = None


def sandbox_load(
    folder: Path,
    options: LoadOptions,
    models: Path | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Load a version in a separate process, to check that it loads and passes every check.

    Args:
        models: folder with the members of an ensemble; by default the models folder of the version.
        stop: event that ends the load once it is set.

    Raises:
        VersionRefused: the version fails, or takes too much time or memory; the message says what to do.
        NotReady: `stop` was set, or no process can be started, so there is no outcome.
    """
    order = _Order(
        folder=folder.absolute(),
        models=models and models.absolute(),
        options=replace(options, trusted_keys=tuple(key.absolute() for key in options.trusted_keys)),
        parent=os.getpid(),
    )
    with _start(where_of(folder)) as process:
        try:
            answer, complaint = _wait(process, order, stop)
        finally:
            process.kill()
    if reason := _refusal(process.returncode, answer, complaint, options):
        where = f"{where_of(folder)}: "
        raise VersionRefused(reason if reason.startswith(where) else where + reason)


def new_version_check(options: LoadOptions, models: Path) -> Callable[[Path, Manifest], None]:
    """Return the check that a new version must pass before it is added: its signature, then a sandbox load.

    The check raises the errors of `check_signature` and `sandbox_load`. A missing trusted key is not the
    version's fault, so it raises SettingsError here, although a server refuses the version for it.

    Args:
        models: folder with the members of ensembles.
    """

    def check(folder: Path, manifest: Manifest) -> None:
        if options.trusted_keys:
            check_signature(folder, options.trusted_keys, manifest)
        sandbox_load(folder, options, models=models)

    return check


def _start(where: str) -> subprocess.Popen[bytes]:
    command, environment = own_process("app.versions.loading.sandbox")
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise NotReady(
            f"{where}: cannot be checked, no process can be started ({error}); allow this one more "
            "processes or memory"
        ) from error


def _wait(
    process: subprocess.Popen[bytes], order: _Order, stop: threading.Event | None
) -> tuple[bytes, bytes]:
    """Wait for the end of the process, and return its standard output and standard error."""
    seconds = order.options.load_timeout
    end = time.monotonic() + seconds
    told: bytes | None = order.model_dump_json().encode()
    while True:
        try:
            return process.communicate(told, timeout=max(0.0, min(_POLL_SECONDS, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            told = None
        if stop and stop.is_set():
            raise NotReady(
                f"{where_of(order.folder)}: was not checked to the end, the server is shutting down"
            )
        if time.monotonic() >= end:
            raise VersionRefused(
                f"{where_of(order.folder)}: took longer than {seconds:g} s to load and check "
                "(NERVE_LOAD_TIMEOUT); allow it more, or export a smaller model"
            )


def _refusal(status: int, answer: bytes, complaint: bytes, options: LoadOptions) -> str | None:
    """Say why a version is refused, or None, from the exit status and the output of its process."""
    if not status:
        with suppress(ValueError):
            return _Answer.model_validate_json(answer).refused
    last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
    how = f"signal {_name(-status)}" if status < 0 else f"exit code {status}"
    ended = f"the process that loaded it ended with {how}" + (f" ({last})" if last else "")
    if status == -signal.SIGKILL:
        return (
            f"{ended}: the machine or its container ran out of memory; give it more, or name a smaller "
            "variant (NERVE_VARIANT)"
        )
    if options.load_memory_bytes:
        return (
            f"{ended}, most likely because it may use {options.load_memory_bytes} bytes of memory and no "
            "more (NERVE_LOAD_MEMORY_BYTES); allow it more, or export it again if that does not help"
        )
    return f"{ended}: a file of it is damaged, or not for this version of ONNX Runtime; export it again"


def _name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return str(number)


def _main() -> None:
    """Load the version that standard input names, and print the outcome."""
    order = _Order.model_validate_json(sys.stdin.buffer.read())
    _end_with(order.parent)
    _be_modest(order.options.load_memory_bytes)
    answer = _Answer()
    try:
        # One thread is enough for a check, and leaves the others to the server.
        Loader(replace(order.options, threads=1)).load(order.folder, models=order.models)
    except NerveError as error:  # a refusal, or a file of trusted keys that holds no key
        answer = _Answer(refused=error.message)
    print(answer.model_dump_json(), flush=True)
    os._exit(0)  # nothing needs to be closed when the process ends


def _end_with(parent: int) -> None:
    """Make this process end when its parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("nobody waits for the outcome any more")


def _be_modest(memory: int) -> None:
    """Lower this process's priority for processor time, and limit its private memory to `memory` bytes.

    The limit is `RLIMIT_DATA`, because `RLIMIT_AS` would count the hundreds of megabytes of addresses that
    allocators and libraries reserve and never touch.
    """
    os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        with suppress(ValueError):  # the system's own limit is lower
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


if __name__ == "__main__":
    _main()
