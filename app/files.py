"""Files are read and replaced as a whole.

Whoever can write to the models folder may put anything in the place of a file, so kind and size are looked
at before the content: a pipe would block its reader, and a large file would fill the memory. After a crash,
a file that was replaced has its old content or all of the new one.
"""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

_OF_THE_PATH = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV}
)
"""Numbers of the errors that say something about what lies at a path."""


class OddFile(ValueError):
    """A path holds no regular file, or one that is too large; the message continues a sentence."""


def of_the_machine(error: OSError) -> bool:
    """Say whether a file could not be read for a reason that lies in the machine, such as its disk.

    The same file may be readable later, although it does not change.
    """
    return error.errno not in _OF_THE_PATH


@contextmanager
def regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file to read its bytes.

    Raises:
        OSError: it cannot be opened.
        OddFile: something else is there, such as a folder or a pipe.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # waits for no writer of a pipe
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OddFile("is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of up to `most` bytes.

    Raises:
        OSError: it cannot be read.
        OddFile: something else is there, or a larger file.
    """
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise OddFile(f"has {max(size, len(content))} bytes, more than the {most} that it may have")
    return content


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
