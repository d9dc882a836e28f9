"""This module runs work once for each fingerprint, a record of its inputs, and resumes it after a kill."""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from app.files import write_whole
from training.folders import replaced_folder

MADE_OF = "made_of.json"
"""The file that holds a folder's fingerprint: the inputs of its content."""

DONE = "done"
"""The file that marks a finished training."""


def processes() -> PartialState:
    """Return the state of the processes that train together; they use the CPU if there is no GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def once(
    folder: Path,
    made_of: Mapping[str, Any],
    work: Callable[[], object],
    product: str = DONE,
    together: bool = True,
) -> None:
    """Do work in a folder, or resume it, unless it is done.

    Args:
        made_of: all inputs that the result depends on, as JSON values.
        work: fills the folder; after a kill it is called again and resumes from the folder's content.
        product: the file or folder whose presence says that the work is done. This function writes `DONE`
            when `work` returns; `work` writes any other product.
        together: whether all processes take part in the work; otherwise one does it, and the others wait.

    Raises:
        ValueError: the folder holds work on other inputs.
    """
    with nullcontext() if together else processes().main_process_first():
        claim(folder, made_of)
        if (folder / product).exists():
            return
        work()
    if product == DONE:
        if processes().is_main_process:
            write_whole(folder / DONE, "")
        processes().wait_for_everyone()


def claim(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Write a folder's fingerprint.

    Raises:
        ValueError: the folder has content of another fingerprint.
    """
    file = folder / MADE_OF
    if not file.exists() or list(folder.iterdir()) == [file]:  # the folder has no content yet
        if processes().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, _spelled(made_of))
        return
    before, wanted = _read(file), json.loads(_spelled(made_of))
    if changed := sorted(k for k in {*before, *wanted} if before.get(k) != wanted.get(k)):
        raise ValueError(
            f"{folder}: was made with other {', '.join(changed)} (see made_of.json); delete it, or keep "
            "both with --set output=runs/another"
        )


def rebuild(folder: Path, made_of: Mapping[str, Any], build: Callable[[Path], object]) -> None:
    """Build a folder again, unless it has this fingerprint; for work of minutes, which does not resume.

    Args:
        build: fills an empty folder, which then replaces the old one.
    """
    file = folder / MADE_OF
    if file.exists() and _read(file) == json.loads(_spelled(made_of)):
        return
    with replaced_folder(folder) as new:
        build(new)
        (new / MADE_OF).write_text(_spelled(made_of), encoding="utf-8")


def _spelled(made_of: Mapping[str, Any]) -> str:
    return json.dumps(made_of, indent=1, ensure_ascii=False) + "\n"


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
