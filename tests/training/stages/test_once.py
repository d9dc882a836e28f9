"""Work that is done once for what it is made of."""

import json
from pathlib import Path

import pytest

from training.stages.once import claim, once, rebuild


class Work:
    """Writes a file into a folder, and counts its calls."""

    def __init__(self, file: Path, fails: int = 0):
        self.file, self.fails, self.calls = file, fails, 0

    def __call__(self) -> None:
        self.calls += 1
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(f"{self.calls}")
        if self.calls <= self.fails:
            raise KeyboardInterrupt


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    work = Work(tmp_path / "a/result")
    for _ in range(2):
        once(tmp_path / "a", {"seed": 1}, work)
    assert work.calls == 1
    assert (tmp_path / "a/done").exists()


def test_work_that_was_stopped_is_called_again(tmp_path: Path) -> None:
    work = Work(tmp_path / "a/result", fails=1)
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "a", {"seed": 1}, work)
    assert not (tmp_path / "a/done").exists()
    once(tmp_path / "a", {"seed": 1}, work)
    assert (tmp_path / "a/result").read_text() == "2"


@pytest.mark.parametrize("done", [True, False])
def test_work_of_another_fingerprint_is_refused(tmp_path: Path, done: bool) -> None:
    work = Work(tmp_path / "a/result", fails=not done)
    try:
        once(tmp_path / "a", {"seed": 1}, work)
    except KeyboardInterrupt:
        assert not done
    with pytest.raises(ValueError, match=r"a: was made with other seed \(see made_of.json\); delete it"):
        once(tmp_path / "a", {"seed": 2}, work)
    assert work.calls == 1


def test_a_product_of_its_own_says_that_work_is_done(tmp_path: Path) -> None:
    work = Work(tmp_path / "a/set/texts")
    for _ in range(2):
        once(tmp_path / "a", {"seed": 1}, work, product="set", together=False)
    assert work.calls == 1
    assert not (tmp_path / "a/done").exists()


def test_a_claim_names_all_that_changed(tmp_path: Path) -> None:
    claim(tmp_path / "a", {"seed": 1, "size": (1, 3)})
    claim(tmp_path / "a", {"seed": 1, "size": (1, 2), "stage": {"lr": 0.1}})  # nothing was made of it yet
    (tmp_path / "a/state").mkdir()
    claim(tmp_path / "a", {"seed": 1, "size": [1, 2], "stage": {"lr": 0.1}})
    assert json.loads((tmp_path / "a/made_of.json").read_text())["size"] == [1, 2]
    with pytest.raises(ValueError, match=r"was made with other seed, size, teacher \(see"):
        claim(tmp_path / "a", {"seed": 2, "stage": {"lr": 0.1}, "teacher": "x"})


def test_a_folder_is_rebuilt_whole_for_another_fingerprint(tmp_path: Path) -> None:
    made: list[str] = []

    def build(folder: Path, name: str) -> None:
        made.append(name)
        (folder / name).write_text(name)

    for weights in ("a", "a", "b"):
        rebuild(tmp_path / "export", {"weights": weights}, lambda new, name=weights: build(new, name))
    assert made == ["a", "b"]
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"b", "made_of.json"}


def test_a_folder_that_cannot_be_rebuilt_stays(tmp_path: Path) -> None:
    rebuild(tmp_path / "export", {"weights": "a"}, lambda new: (new / "a").write_text("a"))

    def fail(new: Path) -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        rebuild(tmp_path / "export", {"weights": "b"}, fail)
    assert (tmp_path / "export/a").read_text() == "a"
