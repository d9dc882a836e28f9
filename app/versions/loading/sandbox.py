"""Sandbox: a first load in a process of its own, where nothing that it does can hurt the server.

A damaged file may crash a runtime, take all memory, or never come to an end. The process that loads it
is limited in memory and time, gives way to those that serve, and is the first to be killed where the
machine runs out of memory. When it ends, all that it used is free again.
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
"""Nice value of the process: it gets a tenth of a processor that others want all of. With less, a good
version would run out of time on a busy server."""

_POLL_SECONDS = 0.1
"""Seconds between two checks of whether the outcome is still wanted."""

_PR_SET_PDEATHSIG = 1  # of prctl(2)


class _Order(BaseModel):
    """What the process is to load, as one JSON object on its standard input.

    Attributes:
        parent: the process that waits for the outcome; this one does not outlive it.
    """

    folder: Path
    models: Path | None
    options: LoadOptions
    parent: int


class _Answer(BaseModel):
    """What the process found, as one JSON object on its standard output.

    Attributes:
        refused: why the version is refused, if it is.
    """

    refused: str | None = None


def sandbox_load(
    folder: Path,
    options: LoadOptions,
    models: Path | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Load a version in a process of its own, to see that it can be loaded and passes every check.

    Args:
        models: where an ensemble's members are looked for; by default beside it.
        stop: once set, the load ends within moments.

    Raises:
        VersionRefused: it cannot, or took more time or memory than it may; the message says what to do.
        NotReady: `stop` was set, or no process can be started. Nothing is known of the version.
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
    """What a new version must pass before it is added: its signature is checked, then it is loaded.

    The check raises what `check_signature` and `sandbox_load` raise. A trusted key that is missing is no
    fault of the version's, so it is a SettingsError here, and a refusal only where versions are served.

    Args:
        models: where an ensemble's members are looked for.
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
    """What the process wrote to its standard output and its standard error, once it has ended."""
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
    """Why a version is refused whose process ended with this exit status and these words."""
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
    """Load what standard input says."""
    order = _Order.model_validate_json(sys.stdin.buffer.read())
    _end_with(order.parent)
    _be_modest(order.options.load_memory_bytes)
    answer = _Answer()
    try:
        # One thread is enough to see whether it works, and leaves the others to those who serve.
        Loader(replace(order.options, threads=1)).load(order.folder, models=order.models)
    except NerveError as error:  # a refusal, or a trusted key that is not one
        answer = _Answer(refused=error.message)
    print(answer.model_dump_json(), flush=True)
    os._exit(0)  # nothing needs closing: the process takes everything with it


def _end_with(parent: int) -> None:
    """Let this process end when the one that waits for it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("nobody waits for the outcome any more")


def _be_modest(memory: int) -> None:
    """Give way to others, in processor time and in memory.

    The limit is on private memory (`RLIMIT_DATA`). One on addresses (`RLIMIT_AS`) would count the
    hundreds of megabytes that allocators and libraries reserve and never touch.
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
