"""Progress: where a training stands, how its epochs went, and who is told of it."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

Say = Callable[[str], None]
"""Is told, a line at a time, what a command does."""

_STATE = "state"
_HISTORY = "history.json"


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave.

    Attributes:
        loss: the mean over its steps.
        dev: F1 on each dev corpus, in percent.
        average: the unweighted mean of these.
    """

    number: int
    loss: float
    dev: dict[str, float]
    average: float


Watch = Callable[[Path, Epoch], None]
"""Is told of each epoch of the training in a folder, once it is saved; raises to end the training."""


@dataclass
class Progress:
    """Where a training stands, as its state is saved.

    Attributes:
        history: the epochs that ended.
        steps: steps of the epoch after those.
        losses: the loss of each of these steps.
        processes: how many processes train together.
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
        """What `write` wrote into a folder; None where nothing was saved."""
        if not (folder / "progress.json").exists():
            return None
        history = [Epoch(**epoch) for epoch in json.loads((folder / _HISTORY).read_text())]
        return cls(history, **json.loads((folder / "progress.json").read_text()))

    @property
    def best(self) -> Epoch | None:
        """The first of the epochs with the highest dev F1."""
        return max(self.history, key=lambda epoch: epoch.average, default=None)

    def exhausted(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought no better dev F1."""
        return self.best is not None and self.history[-1].number - self.best.number >= patience


def state_folder(folder: Path) -> Path:
    """Where the training in a folder saves its state."""
    return folder / _STATE


def read_history(folder: Path) -> list[Epoch]:
    """The epochs of the training in a folder."""
    text = (state_folder(folder) / _HISTORY).read_text(encoding="utf-8")
    return [Epoch(**epoch) for epoch in json.loads(text)]


def best_f1(folder: Path) -> float:
    """The average dev F1 of the best epoch of a training, in percent; that epoch is its checkpoint."""
    return max(epoch.average for epoch in read_history(folder))
