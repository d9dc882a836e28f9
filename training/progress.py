"""This module holds the progress of a training and the results of its epochs."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

Say = Callable[[str], None]
"""Receives messages about what a command does, one line each."""

_STATE = "state"
_HISTORY = "history.json"


@dataclass(frozen=True)
class Epoch:
    """Holds the results of an epoch.

    Attributes:
        number: counted from 1.
        loss: the mean over the epoch's steps.
        dev: F1 on each dev corpus, in percent.
        average: the unweighted mean of `dev`.
    """

    number: int
    loss: float
    dev: dict[str, float]
    average: float


Watch = Callable[[Path, Epoch], None]
"""Receives a training's folder and each epoch, after its save; an exception ends the training."""


@dataclass
class Progress:
    """Holds the progress of a training, as it is saved.

    Attributes:
        history: the finished epochs.
        steps: finished steps of the current epoch.
        losses: the loss of each of these steps.
        processes: the number of processes that train together.
    """

    history: list[Epoch] = field(default_factory=list)
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    processes: int = 1

    def write(self, folder: Path) -> None:
        values = {"steps": self.steps, "losses": self.losses, "processes": self.processes}
        (folder / "progress.json").write_text(json.dumps(values))
        (folder / _HISTORY).write_text(json.dumps([asdict(e) for e in self.history], indent=1))

    @classmethod
    def read(cls, folder: Path) -> "Progress | None":
        """Read what `write` wrote into a folder; return None where nothing was saved."""
        if not (folder / "progress.json").exists():
            return None
        history = [Epoch(**epoch) for epoch in json.loads((folder / _HISTORY).read_text())]
        return cls(history, **json.loads((folder / "progress.json").read_text()))

    @property
    def best(self) -> Epoch | None:
        """Return the first of the epochs with the highest average dev F1; None before the first epoch."""
        return max(self.history, key=lambda epoch: epoch.average, default=None)

    def exhausted(self, patience: int) -> bool:
        """Say whether the last `patience` epochs brought no better dev F1."""
        return self.best is not None and self.history[-1].number - self.best.number >= patience


def state_folder(folder: Path) -> Path:
    """Return the folder in which a training saves its state."""
    return folder / _STATE


def read_history(folder: Path) -> list[Epoch]:
    """Read the finished epochs of the training in a folder."""
    text = (state_folder(folder) / _HISTORY).read_text(encoding="utf-8")
    return [Epoch(**epoch) for epoch in json.loads(text)]


def best_f1(folder: Path) -> float:
    """Return the average dev F1, in percent, of a training's best epoch, which is its checkpoint."""
    return max(epoch.average for epoch in read_history(folder))
