from pathlib import Path

from training.progress import Epoch, Progress, best_f1, read_history, state_folder


def epochs(*averages: float) -> list[Epoch]:
    return [Epoch(number, 0.5, {"dev": one}, one) for number, one in enumerate(averages, 1)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert Progress.read(tmp_path) is None
    progress = Progress(epochs(50.0, 60.0), steps=7, losses=[0.5, 0.25], processes=2)
    progress.write(tmp_path)
    assert Progress.read(tmp_path) == progress


def test_the_best_epoch_is_the_first_of_the_highest(tmp_path: Path) -> None:
    assert Progress().best is None
    progress = Progress(epochs(50.0, 70.0, 70.0, 60.0))
    assert progress.best == progress.history[1]
    state_folder(tmp_path).mkdir()
    progress.write(state_folder(tmp_path))
    assert best_f1(tmp_path) == 70.0
    assert read_history(tmp_path) == progress.history


def test_a_training_is_exhausted_when_patience_epochs_bring_nothing_better() -> None:
    assert not Progress().exhausted(1)
    progress = Progress(epochs(50.0, 70.0, 60.0, 70.0))
    assert progress.exhausted(2)
    assert not progress.exhausted(3)
