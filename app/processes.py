"""Processes says how to run a module of Nerve in a separate process."""

import os
import sys
from pathlib import Path

_PACKAGES = Path(__file__).resolve().parents[1]


def own_process(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run a module of Nerve in a separate process.

    The process imports Nerve from where this one did, and never imports from the working folder.
    """
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return [sys.executable, "-P", "-m", module], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
