"""A sandbox load is the first load of a version, in a separate process that cannot harm the server.

A damaged file may crash a runtime, take all memory, or never finish loading. The separate process has
limits of memory and time, runs at low priority, and is the first to be killed if the machine runs out of
memory. When it ends, all its memory is free again.

What the version does to the process is the version's fault. What the machine does to it is not: if a signal
ends it that nobody sends to himself, or if it lacks memory, processes or files that its own limits allow,
the version was not checked, and nothing is known of it.
"""

import ctypes
import mmap
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from app.errors import NerveError, NotChecked, NotReady, VersionRefused
from app.manifest import Manifest
from app.processes import own_process
from app.versions.loading.confinement import confine
from app.versions.loading.loader import Loader
from app.versions.loading.options import LoadOptions
from app.versions.loading.refusals import not_checked, where_of
from app.versions.loading.trust import check_trust
from app.versions.storage.repository import fingerprint, read_members

_POLL_SECONDS = 0.1
"""Seconds between two checks of `stop` and of the time limit."""

_START_SECONDS = 60
"""Seconds that a process may take to start, on a machine that has other work to do."""

_END_SECONDS = 5
"""Seconds that a process may take to end after it was killed; one that waits for a driver never ends."""

_MOST_OUTPUT = 64 * 1024
"""Bytes that are kept of the process's output, the last ones."""

_LEAST_MEMORY, _MEMORY_PER_BYTE = 2 * 1024**3, 20
"""Default limit of memory: so many bytes for each byte of a version's files, and no less than the least."""

_GPU = Path("/dev/nvidiactl")
"""Is there if this machine has a GPU that a process can use."""

_OWN_SIGNALS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)
"""Signals that a process brings upon itself. Any other comes from outside."""

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
        refused: why the version is refused, if it is.
        undecided: why the version could not be checked, if that is so.
    """

    refused: str | None = None
    undecided: str | None = None


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
        NotChecked: the process could not start or go on, for a reason that is not the version's fault.
        NotReady: `stop` was set, so there is no outcome.
    """
    where = where_of(folder)
    order = _Order(
        folder=folder.absolute(),
        models=models and models.absolute(),
        options=replace(
            options,
            trusted_keys=tuple(key.absolute() for key in options.trusted_keys),
            revoked=options.revoked and options.revoked.absolute(),
        ),
        parent=os.getpid(),
    )
    process = _start(where)
    try:
        answer, complaint = _wait(process, order, stop)
    finally:
        _end(process)
    _judge(where, process.returncode, answer, complaint, options)


def new_version_check(options: LoadOptions, models: Path) -> Callable[[Path, Manifest], None]:
    """Return the check that a new version must pass before it is added: trust, then a sandbox load.

    The check raises the errors of `check_trust` and `sandbox_load`. A missing trusted key is not the
    version's fault, so it raises SettingsError here.

    Args:
        models: folder with the members of ensembles.
    """

    def check(folder: Path, manifest: Manifest) -> None:
        check_trust(folder, options)
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
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},  # only its first thread gives up rights
            start_new_session=True,  # no signal to the group of a server or a terminal reaches it
        )
    except (OSError, MemoryError) as error:
        raise NotChecked(
            f"{where}: was not checked (no process can be started: {error}; allow this one more processes, "
            "files or memory)"
        ) from error


def _wait(
    process: subprocess.Popen[bytes], order: _Order, stop: threading.Event | None
) -> tuple[bytes, bytes]:
    """Wait for the end of the process, and return the ends of its standard output and standard error."""
    where, seconds = where_of(order.folder), order.options.load_timeout
    begun, end = False, time.monotonic() + _START_SECONDS
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(order.model_dump_json().encode())
    said: dict[IO[bytes], bytes] = {process.stdout: b"", process.stderr: b""}
    with selectors.PollSelector() as selector:  # which needs no open file
        for pipe in said:
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while process.poll() is None:
            _read(selector, said, max(0.0, min(_POLL_SECONDS, end - time.monotonic())))
            if stop and stop.is_set():
                raise NotReady(f"{where}: was not checked to the end, the server is shutting down")
            if not begun and said[process.stdout]:
                begun, end = True, time.monotonic() + seconds
            if time.monotonic() < end:
                continue
            if not begun:
                raise NotChecked(f"{where}: was not checked (no process started in {_START_SECONDS} s)")
            if _is_stopped(process.pid):
                raise NotChecked(f"{where}: was not checked (somebody stopped the process that loads it)")
            raise VersionRefused(
                f"{where}: took longer than {seconds:g} s to load and check (NERVE_LOAD_TIMEOUT); allow it "
                "more, or export a smaller model"
            )
        while _read(selector, said, 0):
            pass
    return said[process.stdout], said[process.stderr]


def _read(selector: selectors.BaseSelector, said: dict[IO[bytes], bytes], seconds: float) -> bool:
    """Read what the pipes have, or get within some seconds; say whether that was anything."""
    ready = selector.select(seconds)
    for key, _ in ready:
        block = os.read(key.fd, _MOST_OUTPUT)
        said[key.data] = (said[key.data] + block)[-_MOST_OUTPUT:]
        if not block:
            selector.unregister(key.fileobj)
    return bool(ready)


def _is_stopped(process: int) -> bool:
    """Say whether a process was stopped by a signal, and so took no time of its own."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2][:1] in (b"T", b"t")
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and close its pipes. If it cannot end, it is left alone."""
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()


def _judge(where: str, status: int, said: bytes, complaint: bytes, options: LoadOptions) -> None:
    """Raise what came of a version, from the exit status and the output of its process.

    Raises:
        VersionRefused, NotChecked: see `sandbox_load`.
    """
    if not status:
        with suppress(ValueError):
            answer = _Answer.model_validate_json(said.strip().rpartition(b"\n")[2])
            if answer.undecided:
                raise NotChecked(answer.undecided)
            if answer.refused:
                named = answer.refused.startswith(f"{where}: ")
                raise VersionRefused(answer.refused if named else f"{where}: {answer.refused}")
            return
    last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
    how = f"signal {_name(-status)}" if status < 0 else f"exit code {status}"
    ended = f"the process that loaded it ended with {how}" + (f" ({last})" if last else "")
    if status == -signal.SIGKILL:
        raise NotChecked(
            f"{where}: was not checked ({ended}: somebody killed it, or the machine or its container ran "
            "out of memory; then give it more, or name a smaller variant with NERVE_VARIANT)"
        )
    if not said or (status < 0 and -status not in _OWN_SIGNALS):
        raise NotChecked(f"{where}: was not checked ({ended})")
    if options.load_memory_bytes:
        raise VersionRefused(
            f"{where}: {ended}, most likely because it may use {options.load_memory_bytes} bytes of memory "
            "and no more (NERVE_LOAD_MEMORY_BYTES); allow it more, or export it again if that does not help"
        )
    raise VersionRefused(
        f"{where}: {ended}: a file of it is damaged, or not for this version of ONNX Runtime; export it "
        "again"
    )


def _name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return str(number)


def _main() -> None:
    """Load the version that standard input names, and print the outcome."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    order = _Order.model_validate_json(sys.stdin.buffer.read())
    options, where = order.options, where_of(order.folder)
    print("begins", flush=True)  # whatever happens from here on is up to the version
    devices = options.provider != "cpu" and _GPU.exists()
    memory = options.load_memory_bytes or (0 if devices else _default_memory(order))
    confine(memory, 2 * options.load_timeout, devices)
    _end_with(order.parent)
    answer = _Answer()
    try:
        # One thread is enough for a check, and leaves the others to the server.
        Loader(replace(options, threads=1)).load(order.folder, models=order.models)
    except Exception as error:
        lacking = error if isinstance(error, NotChecked) else not_checked(where, error)
        if lacking and lacking.memory and memory and _can_have(memory):
            answer = _Answer(
                refused=f"needs more than the {memory} bytes of memory that checking it may take; allow it "
                "more (NERVE_LOAD_MEMORY_BYTES), or name a smaller variant (NERVE_VARIANT)"
            )
        elif lacking:
            answer = _Answer(undecided=lacking.message)
        elif isinstance(error, NerveError):
            answer = _Answer(refused=error.message)
        else:
            raise
    print(answer.model_dump_json(), flush=True)
    os._exit(0)  # nothing needs to be closed when the process ends


def _default_memory(order: _Order) -> int:
    """Return the most bytes of memory that a version may take, by the size of its files."""
    models = order.models or order.folder.parent.parent
    folders = [order.folder, *(models / member for member in read_members(order.folder))]
    files = sum(size for folder in folders for _, size, _ in fingerprint(folder))
    return max(_LEAST_MEMORY, _MEMORY_PER_BYTE * files)


def _can_have(memory: int) -> bool:
    """Say whether the system would give so much memory, so that only this process's own limit was short."""
    try:
        mmap.mmap(-1, memory).close()  # is shared, which this process's limit does not count
    except (OSError, MemoryError, OverflowError, ValueError):
        return False
    return True


def _end_with(parent: int) -> None:
    """Make this process end when its parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("nobody waits for the outcome any more")


if __name__ == "__main__":
    _main()
