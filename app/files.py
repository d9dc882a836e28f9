"""Files are replaced as a whole: after a crash they have their old content or all of the new one."""

import os
import threading
from pathlib import Path


def write_whole(path: Path, content: str) -> None:
    """Write a text file in UTF-8, so that it appears whole or not at all.

    Raises:
        OSError: the file cannot be written; its old content stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
