"""This module reads the files of a run that a report plots: epochs by stage, and a learning curve."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.manifest import MANIFEST
from training.progress import Epoch

_ASIDE = ("search", "learning_curve")
"""Folders of a run whose trainings are not stages of the run."""


@dataclass(frozen=True)
class Line:
    """Is one line of a learning curve: F1 in percent at each size, with an interval if it is known."""

    f1: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None


@dataclass(frozen=True)
class LearningCurve:
    """Holds F1 against the number of labelled texts.

    Attributes:
        recorded: the content of the run's file: `sizes` in texts, and F1 in percent of `alone` and
            `distilled`, with the ends of intervals (`alone_low`, `alone_high`, …) where they are known.
    """

    recorded: Mapping[str, Any]

    @property
    def sizes(self) -> Sequence[int]:
        return self.recorded["sizes"]  # type: ignore[no-any-return]

    @property
    def lines(self) -> dict[str, Line]:
        """Return the lines by name: `alone` (trained without a teacher), `distilled`, or both."""
        return {
            name: Line(
                self.recorded[name], self.recorded.get(f"{name}_low"), self.recorded.get(f"{name}_high")
            )
            for name in ("alone", "distilled")
            if name in self.recorded
        }


@dataclass(frozen=True)
class TrainingRun:
    """Holds the epochs of each stage of a run, by the stage's path, and the run's learning curve."""

    name: str
    stages: dict[str, tuple[Epoch, ...]]
    learning_curve: LearningCurve | None


def sort_folders(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the version folders (with a `manifest.json`) and the run folders (with a `recipe.json`).

    Raises:
        ValueError: a folder is neither, or there are no folders.
    """
    if not folders:
        raise ValueError("nothing to report on; name a version, such as models/ner-en/1, or a run's folder")
    versions, runs = [], []
    for folder in folders:
        if (folder / MANIFEST).is_file():
            versions.append(folder.resolve())
        elif (folder / "recipe.json").is_file():
            runs.append(folder.resolve())
        else:
            raise ValueError(
                f"{folder}: neither a version (it would hold {MANIFEST}) nor a run (recipe.json); "
                "name a folder such as models/ner-en/1 or runs/ner-en"
            )
    return versions, runs


def read_run(folder: Path) -> TrainingRun:
    """Read the epochs and the learning curve of a run's folder.

    Raises:
        ValueError: a file is not what a training writes; the message names the file.
    """
    stages = {}
    for path in sorted(folder.rglob("history.json")):
        parts = path.parent.relative_to(folder).parts
        aside = any(part in _ASIDE or part.startswith(".") for part in parts)
        if epochs := () if aside else _epochs(path):
            stages["/".join(part for part in parts if part != "state") or folder.name] = epochs
    curve = folder / "learning_curve.json"
    return TrainingRun(folder.name, stages, LearningCurve(_read(curve, dict)) if curve.is_file() else None)


def _epochs(path: Path) -> tuple[Epoch, ...]:
    try:
        return tuple(Epoch(**epoch) for epoch in _read(path, list))
    except TypeError as error:
        raise ValueError(
            f"{path}: not the epochs of a training: {error}; let the run write it again"
        ) from None


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}; let the run write it again") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path}: holds no {kind.__name__}; let the run write it again")
    return content
