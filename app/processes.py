"""Processes: how a module of ours is run in a process of its own."""

import os
import sys
from pathlib import Path

_PACKAGES = Path(__file__).resolve().parents[1]


def own_process(module: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run a module of ours in a process of its own.

    What lies in the working folder is never imported there, and our packages are found wherever they lie.
    """
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return [sys.executable, "-P", "-m", module], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
