"""Runs: what a training left behind that a report draws: epochs by stage, and a learning curve."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.manifest import MANIFEST
from training.progress import Epoch

_ASIDE = ("search", "learning_curve")
"""Folders of a run whose trainings are no stages of it."""


@dataclass(frozen=True)
class Line:
    """One line of a learning curve: F1 in percent at each size, with an interval where it is known."""

    f1: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None


@dataclass(frozen=True)
class LearningCurve:
    """F1 against the number of labelled texts.

    Attributes:
        recorded: what the run's file holds: `sizes` in texts, and F1 in percent of `alone` and `distilled`,
            with `alone_low`, `alone_high` and the same of `distilled` where they are known.
    """

    recorded: Mapping[str, Any]

    @property
    def sizes(self) -> Sequence[int]:
        return self.recorded["sizes"]  # type: ignore[no-any-return]

    @property
    def lines(self) -> dict[str, Line]:
        """The lines that are drawn, by what learned: `alone`, `distilled`, or both."""
        return {
            name: Line(
                self.recorded[name], self.recorded.get(f"{name}_low"), self.recorded.get(f"{name}_high")
            )
            for name in ("alone", "distilled")
            if name in self.recorded
        }


@dataclass(frozen=True)
class TrainingRun:
    """A run's folder: the epochs of each stage, by the stage's path in it, and its learning curve."""

    name: str
    stages: dict[str, tuple[Epoch, ...]]
    learning_curve: LearningCurve | None


def sort_folders(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Version folders (they hold `manifest.json`) and run folders (`recipe.json`), each in its order.

    Raises:
        ValueError: one of them is neither, or there is none.
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
    """What a run left behind.

    Raises:
        ValueError: a file is not what a training writes; names it.
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
