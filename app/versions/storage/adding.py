"""Adding copies a version into the models folder, all of it or nothing.

A version is staged in `<models>/.incoming/<random>/<name>/<version>`, which no repository reads. It is
checked there, then renamed to its place. The next add removes what processes that died have left there.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import VersionRefused
from app.files import OddFile, read_bytes, sync
from app.manifest import MANIFEST, Manifest, read_manifest
from app.manifest import MAX_BYTES as MAX_MANIFEST_BYTES
from app.versions.storage.sources import MAX_BYTES, OPTIONAL, AddFailed, Fetch, open_source

INCOMING = ".incoming"

_MAX_UNLISTED_BYTES = 64 * 1024**2
"""Most bytes of a file whose size no manifest states."""

Check = Callable[[Path, Manifest], None]
"""A check gets the folder and manifest of a staged version, and raises an error if the version fails."""


class _Identity(BaseModel):
    """Holds the part of a manifest that says where a version goes. It is read before the rest."""

    model_config = ConfigDict(strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: int = Field(ge=1)


def add_version(source: str, models: Path, check: Check) -> Manifest:
    """Copy a version into the models folder, if it passes its check.

    Args:
        source: path or fsspec URL of a version's folder or of a .tar.gz of one, such as
            `s3://bucket/ner-en/3` or `https://host/ner-en-3.tar.gz`. Only the manifest, the files that it
            lists, the signature and README.md are copied.
        models: the models folder.
        check: called with the staged version; an error that it raises ends the add.

    Raises:
        VersionRefused: the version exists already, or its files are not what its manifest says.
        AddFailed: the version cannot be read, or there is no room for it.
    """
    try:
        with _staging(models / INCOMING) as staging:
            fetch = open_source(source, staging / "unpacked", models)
            folder, manifest = _stage(source, staging, fetch, models)
            check(folder, manifest)
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
    """Make a folder for this add, locked while it is in use, and remove it at the end."""
    incoming.mkdir(parents=True, exist_ok=True)
    staging = incoming / secrets.token_hex(8)
    lock = FileLock(_lock_file(staging))
    # This lock keeps other processes from removing the new folder before its own lock is held.
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


def _stage(source: str, staging: Path, fetch: Fetch, models: Path) -> tuple[Path, Manifest]:
    """Copy a version's files into a staged folder with the version's name, and flush them to disk."""
    first = staging / MANIFEST
    try:
        fetch(MANIFEST, first, MAX_MANIFEST_BYTES + 1)  # one more shows that it is too large
    except FileNotFoundError as error:
        raise AddFailed(
            f"{source}: holds no {MANIFEST} ({error.__cause__ or error}); name a version's folder, such as "
            "…/ner-en/3"
        ) from error
    try:
        identity = _Identity.model_validate_json(read_bytes(first, MAX_MANIFEST_BYTES))
    except OddFile as error:
        raise VersionRefused(f"{source}: {MANIFEST} {error}; export the model again") from None
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
    # The files of an archive are on the disk already.
    if needed > free and not (staging / "unpacked").exists():
        raise AddFailed(
            f"{source}: no room left in {models}: it needs {needed} bytes, {free} are free; make room"
        )
    # One more byte than the manifest says shows that a file is too long.
    limits = {name: file.size + 1 for name, file in manifest.files.items()}
    for name, limit in (dict.fromkeys(OPTIONAL, _MAX_UNLISTED_BYTES) | limits).items():
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
    if os.path.lexists(place):  # rename would replace an empty folder
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
