"""This module writes folders that appear complete or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.files import sync


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to fill; it replaces `target` when the block ends without error.

    Its files are flushed to disk before the rename, so that a power cut leaves no partial folder.
    """
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        sync_folder(new)
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        new.rename(target)
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder and every file in it to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync(path)
    sync(folder)
