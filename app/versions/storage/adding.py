"""Adding: from wherever a version lies to the models folder, all of it or nothing.

A version is staged in `<models>/.incoming/<random>/<name>/<version>`, which no repository looks into,
proves itself there, and gets its place by one rename. What a dead process left behind, the next add
removes.
"""

import errno
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import NerveError, VersionRefused
from app.files import sync
from app.manifest import MANIFEST, Manifest, read_manifest
from app.versions.loading.loader import LoadOptions
from app.versions.loading.sandbox import trial
from app.versions.storage.signatures import SIGNATURE, check_signature

INCOMING = ".incoming"
MAX_BYTES = 16 * 1024**3
"""Most that a version may take on disk."""
MAX_MEMBERS = 10_000
"""Most files and folders in an archive."""

_MAX_UNLISTED_BYTES = 64 * 1024**2
_CHUNK = 1024**2
_OPTIONAL = (SIGNATURE, "README.md")

Fetch = Callable[[str, Path, int], None]
"""Bring the file of this name to this path, at most so many bytes of it.

Raises:
    FileNotFoundError: there is none.
"""


class AddFailed(NerveError):
    """A version could not be brought here; nothing of it is left."""

    code = "add_failed"


class _Identity(BaseModel):
    """What says where a version goes, before the rest of its manifest is looked at."""

    model_config = ConfigDict(strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: int = Field(ge=1)


def add_version(source: str, models: Path, options: LoadOptions) -> Manifest:
    """Copy a version into the models folder, if it passes every check that a load makes.

    Args:
        source: a version's folder or a .tar.gz of one: a path, or an fsspec URL such as
            `s3://bucket/ner-en/3` or `https://host/ner-en-3.tar.gz`. Only what its manifest lists, its
            signature and its README.md are taken.

    Raises:
        VersionRefused: it fails its checks, or its number is taken.
        AddFailed: it cannot be read, or there is no room for it.
        SettingsError: a trusted key is missing or is none.
    """
    try:
        with _staging(models / INCOMING) as staging:
            fetch = _open_source(source, staging / "unpacked", models)
            folder, manifest = _stage(source, staging, fetch, models)
            if options.trusted_keys:  # a key that is missing is no fault of the version's
                check_signature(folder, options.trusted_keys, manifest)
            trial(folder, options, models=models)
            _publish(folder, models / manifest.name / str(manifest.version))
            return manifest
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AddFailed(
                f"{source}: no room left in {models}: {error}; nothing was added; make room"
            ) from error
        raise AddFailed(f"{source}: cannot be added to {models}: {error}; nothing was added") from error


@contextmanager
def _staging(incoming: Path) -> Iterator[Path]:
    """A folder of this add alone, gone at the end; it is locked for as long as this process works on it."""
    incoming.mkdir(parents=True, exist_ok=True)
    staging = incoming / secrets.token_hex(8)
    lock = FileLock(_lock_file(staging))
    # Under one lock, so that nobody takes a folder that is just being made for a dead one.
    with FileLock(incoming / ".lock"):
        _remove_leftovers(incoming)
        lock.acquire()
        try:
            staging.mkdir()
        except OSError:
            lock.release()
            _lock_file(staging).unlink(missing_ok=True)
            raise
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.release()
        _lock_file(staging).unlink(missing_ok=True)


def _remove_leftovers(incoming: Path) -> None:
    dead = {path.with_suffix("") for path in incoming.iterdir() if path.name != ".lock"}
    for staging in dead:
        lock = FileLock(_lock_file(staging))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(staging, ignore_errors=True)
                _lock_file(staging).unlink(missing_ok=True)
        except Timeout:  # its process still runs
            continue


def _lock_file(staging: Path) -> Path:
    return staging.with_suffix(".lock")


def _open_source(source: str, unpacked: Path, models: Path) -> Fetch:
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
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path.open("rb")


def _is_archive(path: str) -> bool:
    return path.endswith((".tar.gz", ".tgz"))


def _from_files(source: str, opened: Callable[[str], IO[bytes]]) -> Fetch:
    def fetch(name: str, path: Path, limit: int) -> None:
        # Not asked first whether it is there: fsspec answers no to that on every kind of error.
        try:
            with _reading(source):
                file = opened(name)
        except AddFailed as error:
            # S3 forbids what is not there to those who may not list the bucket.
            if name in _OPTIONAL and isinstance(error.__cause__, PermissionError):
                raise FileNotFoundError(name) from error
            raise
        with file:
            _write(source, file, path, limit)

    return fetch


def _unpack(source: str, file: IO[bytes], folder: Path) -> Fetch:
    """Unpack an archive as it streams in."""
    folder.mkdir()
    room = min(MAX_BYTES, shutil.disk_usage(folder).free)
    with _reading(source):
        archive = tarfile.open(fileobj=file, mode="r|gz")  # noqa: SIM115
    count = 0
    while member := _next_member(source, archive):
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
    """Where the version lies in what was unpacked: often in a folder of its name, or in one of a folder."""
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
    """The path of a member, which is a plain file or folder inside the archive."""
    path = PurePosixPath(member.name)
    kind = (member.isreg() and not member.issparse()) or member.isdir()
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


def _stage(source: str, staging: Path, fetch: Fetch, models: Path) -> tuple[Path, Manifest]:
    """The version's folder under its own name, with every file it needs on disk."""
    first = staging / MANIFEST
    try:
        fetch(MANIFEST, first, _MAX_UNLISTED_BYTES)
    except FileNotFoundError as error:
        raise AddFailed(
            f"{source}: holds no {MANIFEST} ({error.__cause__ or error}); name a version's folder, such as "
            "…/ner-en/3"
        ) from error
    try:
        identity = _Identity.model_validate_json(first.read_bytes())
    except ValidationError as error:
        problem = str(error.errors()[0]["msg"])
        raise VersionRefused(
            f"{source}: {MANIFEST} names no model and version ({problem}); export the model again"
        ) from None
    place = models / identity.name / str(identity.version)
    if os.path.lexists(place):
        raise _taken(place)
    folder = staging / identity.name / str(identity.version)
    folder.mkdir(parents=True)
    first.rename(folder / MANIFEST)
    manifest = read_manifest(folder)
    needed = sum(file.size for file in manifest.files.values())
    free = shutil.disk_usage(staging).free
    if needed > MAX_BYTES:
        raise AddFailed(f"{source}: has {needed} bytes, more than the {MAX_BYTES} that a version may have")
    # What an archive held is on disk already.
    if needed > free and not (staging / "unpacked").exists():
        raise AddFailed(
            f"{source}: no room left in {models}: it needs {needed} bytes, {free} are free; make room"
        )
    # One byte more than it should have shows that a file is longer.
    limits = {name: file.size + 1 for name, file in manifest.files.items()}
    for name, limit in (dict.fromkeys(_OPTIONAL, _MAX_UNLISTED_BYTES) | limits).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fetch(name, path, limit)
        except FileNotFoundError:
            if name in limits:
                raise VersionRefused(
                    f"{source}: {name} is missing, and {MANIFEST} lists it; copy the version again"
                ) from None
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync(path)
    return folder, manifest


def _publish(folder: Path, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    if os.path.lexists(place):  # a rename would replace an empty folder
        raise _taken(place)
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _taken(place) from None
        raise
    sync(place.parent)
    sync(place.parent.parent)


def _taken(place: Path) -> VersionRefused:
    return VersionRefused(
        f"{place.parent.name}/{place.name}: is in {place.parent.parent} already, and a version never "
        "changes; export this one under the next free number"
    )


def _write(source: str, content: IO[bytes], path: Path, limit: int) -> None:
    """Stream at most `limit` bytes into a new file; they are on the disk when this returns."""
    with path.open("xb") as file:
        while limit:
            with _reading(source):
                chunk = content.read(min(_CHUNK, limit))
            if not chunk:
                break
            file.write(chunk)
            limit -= len(chunk)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _reading(source: str) -> Iterator[Any]:
    """Tell what goes wrong at the source from what goes wrong here."""
    try:
        yield
    except (NerveError, ImportError, FileNotFoundError):
        raise
    except Exception as error:  # each back end raises errors of its own
        first = next(iter(str(error).splitlines()), "")
        raise AddFailed(
            f"{source}: cannot be read: {type(error).__name__}: {first}; check the address, that it is "
            "whole, the network and the credentials"
        ) from error
