"""Confinement takes from this process what the first load of a version does not need.

A version is a graph and a vocabulary, which libraries in C++ and Rust parse. Should a crafted file take
over the process, it finds that it may write no file, start no program, reach no network and send no signal,
as far as this system lets an ordinary process give such rights up. What the system refuses is skipped.
"""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

NICE = 10
"""Nice value of the process, which gives it a tenth of a busy processor. With less, a good version would
run out of time on a busy server."""

_MOST_FILES_OPEN = 1024

_PR_SET_NO_NEW_PRIVS = 38  # of prctl(2)
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # of unshare(2)

# system calls of Landlock
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _TRUNCATE = 1 << 0, 1 << 1, 1 << 14
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_TCP = 0b11  # bind and connect
_SIGNALS_AND_SOCKETS = 0b11  # of processes outside


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("fs", "net", "scoped")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def confine(memory: int, seconds: float, devices: bool) -> None:
    """Limit what this process may use, for good.

    The limit of memory is `RLIMIT_DATA`, because `RLIMIT_AS` would count the hundreds of megabytes of
    addresses that allocators and libraries reserve and never touch.

    Args:
        memory: most bytes of private memory; 0 sets no limit.
        seconds: most seconds of processor time.
        devices: whether it needs the devices of a GPU, whose driver writes files.
    """
    os.nice(NICE)
    with suppress(OSError):  # whatever runs out of memory, this process ends before a server does
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # The administrator would lose the right to read files of others in a user namespace.
        libc.unshare(_CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET)
        _landlock(libc, devices)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _MOST_FILES_OPEN)
    _limit(resource.RLIMIT_CPU, int(min(seconds, 2**31)) + 1)
    if not devices:
        _limit(resource.RLIMIT_FSIZE, 0)
    if memory:
        _limit(resource.RLIMIT_DATA, memory)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (most, most))


def _landlock(libc: ctypes.CDLL, devices: bool) -> None:
    """Give up writing files, running programs, TCP, and signals and sockets of processes outside."""
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:  # the kernel has no Landlock, or it is switched off
        return
    rules = _Ruleset(
        _EXECUTE | _WRITE_FILE | _REMOVE_AND_MAKE | (_TRUNCATE if version >= 3 else 0),
        _TCP if version >= 4 else 0,
        _SIGNALS_AND_SOCKETS if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return
    if devices:
        folder = os.open("/dev", os.O_PATH | os.O_CLOEXEC)
        beneath = _Beneath(_WRITE_FILE | (_TRUNCATE if version >= 3 else 0), folder)
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(beneath), 0)
        os.close(folder)
    libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
