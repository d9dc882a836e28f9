"""A source has the files of a version: it is a folder, an archive, or a URL of either."""

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from app.errors import NerveError, VersionRefused
from app.manifest import MANIFEST
from app.versions.storage.signatures import SIGNATURE

MAX_BYTES = 16 * 1024**3
"""Most bytes of a version on disk."""

MAX_MEMBERS = 10_000
"""Most files and folders of an archive."""

_MOST_HEADER, _MOST_HEADERS = 16 * 1024, 1024**2
"""Most bytes of a header of variable length in an archive, and of all. The library reads each whole."""

_EXTENDED = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.XGLTYPE,
    }
)
"""Types of the headers of variable length, which say more of the members that follow them."""

OPTIONAL = (SIGNATURE, "README.md")
"""Files that a version may have although no manifest lists them."""

_BLOCK = 1024**2
"""Bytes that are copied at a time."""

Fetch = Callable[[str, Path, int], None]
"""Fetching copies the file of a name to a path, up to a number of bytes.

Raises:
    FileNotFoundError: the source has no such file.
"""


class AddFailed(NerveError):
    """Says that a version could not be added; nothing of it is left."""

    code = "add_failed"


class _Header(tarfile.TarInfo):
    """Reads a header of an archive, but no header of variable length that is too large."""

    def _proc_member(self, archive: "_Archive") -> tarfile.TarInfo:
        if self.type in _EXTENDED:
            archive.extended += self.size
            if not 0 <= self.size <= _MOST_HEADER or archive.extended > _MOST_HEADERS:
                raise tarfile.HeaderError(f"headers of more than {_MOST_HEADER} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:  # its header may go on for ever
            raise tarfile.HeaderError("a sparse file; pack it without --sparse")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        archive.pax_headers = {}  # a header for all members would be copied to each
        return found


class _Archive(tarfile.TarFile):
    """Reads an archive whose headers are small.

    Attributes:
        extended: bytes of its headers of variable length so far.
    """

    members: list[tarfile.TarInfo]
    tarinfo = _Header
    extended = 0


def open_source(source: str, unpacked: Path, models: Path) -> Fetch:
    """Open a path or URL, and return the function that copies files from it.

    Args:
        source: path or fsspec URL of a folder or archive.
        unpacked: path of a folder that is made for the files of an archive.
        models: the models folder; the source must lie outside.

    Raises:
        AddFailed: the source cannot be read, is neither a folder nor an archive, or is too large.
        VersionRefused: an archive has links, special files, files twice or paths that lead out of it.
    """
    if "://" in source and not source.startswith("file://"):
        return _open_url(source, unpacked)
    path = Path(unquote(urlsplit(source).path) if source.startswith("file://") else source)
    if path.is_dir():
        if path.resolve().is_relative_to(models.resolve()):
            raise AddFailed(
                f"{source}: lies in the models folder {models} already; name a folder outside it"
            )
        return _from_files(source, lambda name: _open_file(path / name))
    if not path.is_file():
        raise AddFailed(f"{source}: is not there; name a version's folder, a .tar.gz of one, or a URL")
    if not _is_archive(path.name):
        raise AddFailed(f"{source}: is neither a folder nor a .tar.gz; name a version's folder or pack it")
    with path.open("rb") as file:
        return _unpack(source, file, unpacked)


def _open_url(source: str, unpacked: Path) -> Fetch:
    try:
        from fsspec.core import url_to_fs

        with _reading(source):
            system, path = url_to_fs(source)
    except ImportError as error:
        raise AddFailed(
            f"{source}: a library for it is missing ({error}); pip install 'nerve-ner[remote]'"
        ) from None
    if _is_archive(urlsplit(source).path):
        try:
            with _reading(source):
                file = system.open(path, "rb")
        except FileNotFoundError as error:
            raise AddFailed(
                f"{source}: cannot be read: {error.__cause__ or error}; check the address and the network"
            ) from error
        with file:
            return _unpack(source, file, unpacked)
    return _from_files(source, lambda name: system.open(f"{path.rstrip('/')}/{name}", "rb"))


def _open_file(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # to open a pipe would block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return open(descriptor, "rb")


def _is_archive(path: str) -> bool:
    return path.endswith((".tar.gz", ".tgz"))


def _from_files(source: str, opened: Callable[[str], IO[bytes]]) -> Fetch:
    def fetch(name: str, path: Path, limit: int) -> None:
        # fsspec's `exists` says no on any error, so the file is opened without asking.
        try:
            with _reading(source):
                file = opened(name)
        except AddFailed as error:
            # S3 answers "forbidden" for a missing file if the caller may not list the bucket.
            if name in OPTIONAL and isinstance(error.__cause__, PermissionError):
                raise FileNotFoundError(name) from error
            raise
        with file:
            _write(source, file, path, limit)

    return fetch


def _unpack(source: str, file: IO[bytes], folder: Path) -> Fetch:
    """Unpack an archive as its bytes arrive, and return the function that moves files out of it."""
    folder.mkdir()
    room = min(MAX_BYTES, shutil.disk_usage(folder).free)
    with _reading(source):
        archive = _Archive.open(fileobj=file, mode="r|gz")
    count = 0
    while member := _next_member(source, archive):
        archive.members.clear()  # which it would keep to the end
        count += 1
        path = folder.joinpath(*_checked_parts(source, member, folder))
        room -= member.size
        if count > MAX_MEMBERS or room < 0:
            raise AddFailed(
                f"{source}: unpacks to more than {MAX_MEMBERS} files, {MAX_BYTES} bytes or what is free "
                "on the disk; pack one version alone, or make room"
            )
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with _reading(source):
            content = archive.extractfile(member)
        if path.exists() or content is None:
            raise VersionRefused(f"{source}: holds {member.name!r} twice; pack it again")
        _write(source, content, path, member.size)
    root = _root(folder)

    def fetch(name: str, path: Path, limit: int) -> None:
        if not (root / name).is_file():
            raise FileNotFoundError(f"not in {source}: {name}")
        (root / name).rename(path)

    return fetch


def _root(folder: Path) -> Path:
    """Return the folder that holds the manifest; archives often have one or two folders above it."""
    while not (folder / MANIFEST).exists():
        inside = [path for path in folder.iterdir() if path.is_dir()]
        if len(inside) != 1:
            break
        folder = inside[0]
    return folder


def _next_member(source: str, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _reading(source):
        return archive.next()


def _checked_parts(source: str, member: tarfile.TarInfo, folder: Path) -> tuple[str, ...]:
    """Check that a member is a plain file or folder inside the archive, and return its path."""
    path = PurePosixPath(member.name)
    kind = ((member.isreg() and not member.issparse()) or member.isdir()) and member.size >= 0
    try:
        tarfile.data_filter(member, str(folder))
    except tarfile.FilterError:
        kind = False
    if not kind or path.is_absolute() or ".." in path.parts:
        raise VersionRefused(
            f"{source}: holds {member.name!r}, which is no plain file or folder inside it; pack the "
            "version again, without links and with paths relative to its folder"
        )
    return path.parts


def _write(source: str, content: IO[bytes], path: Path, limit: int) -> None:
    """Copy at most `limit` bytes into a new file, and flush it to disk."""
    with path.open("xb") as file:
        while limit:
            with _reading(source):
                block = content.read(min(_BLOCK, limit))
            if not block:
                break
            file.write(block)
            limit -= len(block)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _reading(source: str) -> Iterator[Any]:
    """Turn errors of the source into AddFailed, so that they differ from errors of this machine."""
    try:
        yield
    except (NerveError, ImportError, FileNotFoundError):
        raise
    except Exception as error:  # each back end of fsspec raises other errors
        first = next(iter(str(error).splitlines()), "")
        raise AddFailed(
            f"{source}: cannot be read: {type(error).__name__}: {first}; check the address, that it is "
            "whole, the network and the credentials"
        ) from error
