"""Machine says which CPUs this process may use, and identifies processes, servers and hosts."""

import math
import os
import socket
import uuid
from functools import cache
from pathlib import Path

SERVER_ID = "NERVE_SERVER_ID"
"""Names the environment variable with the server's id, which the supervisor sets for its workers."""


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, limited by the cgroup's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_quota()
    cpus = allowed or 1
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


def _cgroup_quota() -> float | None:
    """Return how many CPUs the cgroup (v2, else v1) grants; None if it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError):
        return None


@cache
def server_id() -> str:
    """Return the id of this server, which all its workers share; a single process makes one up."""
    return os.environ.get(SERVER_ID) or uuid.uuid4().hex


@cache
def host() -> str:
    """Return the name of this machine together with its process namespace, which a container has alone."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()}/{space}"


def process_start(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "" if it does not live, "unknown" without
    /proc. It tells apart two processes that had the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    else:
        return "" if fields[0] == "Z" else fields[19]
    try:  # there is no /proc; taking a reused number for alive is the smaller mistake
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
