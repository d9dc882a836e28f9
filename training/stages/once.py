"""Once: work that is done once for what it is made of, in a folder that says so, and can be resumed."""

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
"""The fingerprint of a folder: what its content was made of."""

DONE = "done"
"""Marks a training that went to its end."""


def processes() -> PartialState:
    """The processes that train together, as they were launched; on the CPU where there is no GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def once(
    folder: Path,
    made_of: Mapping[str, Any],
    work: Callable[[], object],
    product: str = DONE,
    together: bool = True,
) -> None:
    """Do work in a folder, or go on with it, unless it is done.

    Args:
        made_of: all that the result depends on, as JSON.
        work: fills the folder; it is called again after a kill and goes on from what it left.
        product: what lies in the folder when the work is done. `DONE` is written when `work` returns, any
            other is for `work` to write.
        together: whether all processes take part in the work; otherwise one does it, and the others wait.

    Raises:
        ValueError: the folder holds work that was made of something else.
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
    """Write down what a folder's content is made of.

    Raises:
        ValueError: it holds something that was made of something else.
    """
    file = folder / MADE_OF
    if not file.exists() or list(folder.iterdir()) == [file]:  # nothing was made of it yet
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
    """Have a folder hold what is made of this, and make it again where it was made of something else.

    Args:
        build: fills an empty folder, which takes the place of the old one whole. It is for work that takes
            minutes and needs no resuming.
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
