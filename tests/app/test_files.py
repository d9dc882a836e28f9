"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from app.files import write_whole


def test_what_is_written_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for content in ("first", "Zürich\n"):
        write_whole(path, content)
        assert path.read_text(encoding="utf-8") == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "state.json", "x")
