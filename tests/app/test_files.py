"""Files that appear whole or not at all, and what lies in the place of one."""

import errno
import os
from pathlib import Path

import pytest

from app.files import OddFile, of_the_machine, read_bytes, write_whole


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


def test_a_file_of_up_to_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(b"four")
    assert read_bytes(path, 4) == b"four"
    with pytest.raises(OddFile, match="has 4 bytes, more than the 3 that it may have"):
        read_bytes(path, 3)


def test_what_is_no_file_is_told_and_waits_for_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(OddFile, match="is no regular file"):
            read_bytes(path, 1000)
    open_files = len(os.listdir("/dev/fd"))
    for _ in range(20):
        with pytest.raises(OddFile):
            read_bytes(tmp_path, 1000)
    assert len(os.listdir("/dev/fd")) == open_files


def test_a_full_table_of_files_is_the_machines_a_missing_file_is_not() -> None:
    assert of_the_machine(OSError(errno.EMFILE, "many"))
    assert of_the_machine(OSError(errno.EIO, "disk"))
    assert not of_the_machine(FileNotFoundError(errno.ENOENT, "none"))
