"""Machine: what this process has of the machine that it runs on, and how others there know it."""

import math
import os
import socket
import uuid
from functools import cache
from pathlib import Path

SERVER_ID = "NERVE_SERVER_ID"
"""The environment variable that the workers of one server share."""


def available_cpus() -> int:
    """CPUs this process may use: its affinity, further limited by the cgroup's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cgroup_quota()
    cpus = allowed or 1
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


def _cgroup_quota() -> float | None:
    """CPUs the cgroup (v2, then v1) grants, or None where it grants all."""
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
    """What the workers of this server have in common: from the environment, or this process's own."""
    return os.environ.get(SERVER_ID) or uuid.uuid4().hex


@cache
def host() -> str:
    """This machine; of a container, its own processes' part of it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()}/{space}"


def process_start(pid: int) -> str:
    """When a process began, in a unit of the system's own; empty where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    else:
        return "" if fields[0] == "Z" else fields[19]
    try:  # a system without /proc: better to take a reused number for alive than a living process for dead
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"
