from pathlib import Path

import pytest

from app.files import write_whole
from training.folders import replaced_folder


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a").write_text(text)


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "some" / "target"
    with replaced_folder(target) as new:
        fill(new, "one")
        assert not target.exists()
    assert contents(tmp_path) == {"some/target/inner/a": "one"}


def test_it_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for text in ("one", "two"):
        with replaced_folder(target) as new:
            assert contents(new) == {}
            fill(new, text)
    assert contents(tmp_path) == {"target/inner/a": "two"}


def fail_in(target: Path) -> None:
    with replaced_folder(target) as new:
        fill(new, "two")
        raise RuntimeError("killed")


def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with replaced_folder(target) as new:
        fill(new, "one")
    with pytest.raises(RuntimeError, match="killed"):
        fail_in(target)
    assert contents(tmp_path) == {"target/inner/a": "one"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_what_a_crash_left_is_swept_away(tmp_path: Path) -> None:
    for name in (".target.new", ".target.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    (tmp_path / "target").mkdir()
    with replaced_folder(tmp_path / "target") as new:
        fill(new, "one")
    assert contents(tmp_path) == {"target/inner/a": "one"}


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    for text in ("one", "zwölf"):
        write_whole(target, text)
        assert contents(tmp_path) == {"file.json": text}
