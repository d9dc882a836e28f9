"""The repository lists the versions in the models folder, and shows whether a folder has changed."""

import errno
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from app.errors import NerveError, NotFound, shown
from app.files import OddFile, read_bytes
from app.manifest import MANIFEST, MAX_BYTES, MAX_FILES

Fingerprint = tuple[tuple[str, int, int], ...]

CROWDED = "(more files than a version may have)"
"""The only name in the fingerprint of a folder with more than `MAX_FILES` files and folders."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]*")
LONGEST_NAME = 200
"""Most characters of a model's name. Files are named after it, and a file's name may have 255 bytes."""

_MEMBERS = re.compile(rb'"members"\s{0,99}:\s{0,99}\[([^][]{0,20000})]')
_MEMBER = re.compile(f'"({_NAME.pattern}/{_VERSION.pattern})"'.encode())

_MOST_MEMBERS = 100
"""Most members of an ensemble whose folders are looked at."""

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What the system says of a file that is not there. All else says that it cannot be read now."""


class RepositoryUnreadable(NerveError):
    """What is in the models folder cannot be read now, so that nobody knows what is there."""

    code = "state_unreadable"


class Repository:
    """Reads a folder of `<name>/<version>/` folders. Anything else in the folder is ignored.

    Every method raises RepositoryUnreadable if a folder cannot be read now, for example because too many
    files are open: what is there must not look as if it were gone.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[Path, tuple[tuple[str, int, int] | None, tuple[str, ...]]] = {}

    def names(self) -> list[str]:
        """Return the names of models with at least one version, or whose folder cannot be read, sorted.

        Raises:
            RepositoryUnreadable: the models folder cannot be read now.
        """
        return sorted(path.name for path in self._folders(self.folder, _NAME) if self._may_be(path.name))

    def _may_be(self, name: str) -> bool:
        """Say whether a folder is a model; one that cannot be read now may be."""
        try:
            return bool(self.versions(name))
        except RepositoryUnreadable:
            return True

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, ascending; none if no model can have this name.

        Raises:
            RepositoryUnreadable: its folder cannot be read now.
        """
        if not self.possible(name):
            return []
        return sorted(int(path.name) for path in self._folders(self.folder / name, _VERSION))

    @staticmethod
    def possible(name: str) -> bool:
        """Say whether a model can have this name. No path may be made of another one."""
        return len(name) <= LONGEST_NAME and _NAME.fullmatch(name) is not None

    def require(self, name: str) -> list[int]:
        """Return the versions of a model, ascending.

        Raises:
            NotFound: the model has no version; the message names all models.
            RepositoryUnreadable: nobody knows now.
        """
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none; see NERVE_MODELS_DIR"
            raise NotFound(f"there is no model {shown(name)} (there: {known})", "unknown_model")
        return versions

    def path(self, name: str, version: int) -> Path:
        """Return a version's folder.

        Raises:
            NotFound: there is no such model or version; the message names those that exist.
            RepositoryUnreadable: nobody knows now.
        """
        versions = self.require(name)
        if version not in versions:
            known = ", ".join(map(str, versions))
            number = str(version) if version < 10**18 else "with so large a number"
            raise NotFound(f"{name} has no version {number} (it has {known})", "unknown_version")
        return self.folder / name / str(version)

    def fingerprint(self, name: str, version: int) -> Fingerprint:
        """Return name, size and time of every file of a version, and of the members of an ensemble.

        An ensemble that lacked a member therefore counts as changed when the member is added.

        Raises:
            RepositoryUnreadable: this process lacks descriptors or memory, or the disk fails.
        """
        folder = self.folder / name / str(version)
        files = list(fingerprint(folder))
        for member in self._members(folder, tuple(files)):
            files += [
                (f"{member}/{file}", size, at) for file, size, at in fingerprint(self.folder / member)
            ]
        return tuple(files)

    def _members(self, folder: Path, seen: Fingerprint) -> tuple[str, ...]:
        """Return the members that a manifest names. It is only read again if it has changed."""
        manifest = next((file for file in seen if file[0] == MANIFEST), None)
        known = self._seen.get(folder)
        if known and known[0] == manifest:
            return known[1]
        members = read_members(folder) if manifest else ()
        self._seen[folder] = (manifest, members)
        return members

    @staticmethod
    def _folders(parent: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
        try:
            children = [path for path in parent.iterdir() if pattern.fullmatch(path.name)]
            yield from [path for path in children if path.is_dir()]
        except OSError as error:
            if error.errno not in _ABSENT:
                raise _unreadable(parent.name, error) from error


def fingerprint(folder: Path) -> Fingerprint:
    """Return name, size and time of every file of a folder; nothing if there is no such folder.

    Raises:
        RepositoryUnreadable: this process lacks descriptors or memory, or the disk fails.
    """
    files: list[tuple[str, int, int]] = []
    waiting, inside = [os.fspath(folder)], len(os.fspath(folder)) + 1
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if len(files) == MAX_FILES:  # a million files would take seconds at each poll
                        return ((CROWDED, MAX_FILES, folder.stat().st_mtime_ns),)
                    try:
                        stat = entry.stat()
                    except OSError as error:  # the file was removed meanwhile, or is a broken link
                        _passable(folder, error)
                        continue
                    files.append((entry.path[inside:], stat.st_size, stat.st_mtime_ns))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError as error:  # the folder was removed meanwhile
            _passable(folder, error)
    return tuple(sorted(files))


def _passable(folder: Path, error: OSError) -> None:
    """Pass an error that tells of the folder, and raise RepositoryUnreadable for one of this process."""
    if error.errno not in _ABSENT | {errno.EACCES, errno.EPERM}:  # rights are the folder's own
        raise _unreadable("/".join(folder.parts[-2:]), error) from error


def _unreadable(what: str, error: OSError) -> RepositoryUnreadable:
    return RepositoryUnreadable(
        f"{what}: the folder cannot be read now ({error.strerror}); what serves goes on, and it is tried "
        "again"
    )


def read_members(folder: Path) -> tuple[str, ...]:
    """Return the names of members in a version's manifest, before it is checked.

    They are searched, not parsed, because what parses a hostile file may take much time or memory.
    """
    try:
        content = read_bytes(folder / MANIFEST, MAX_BYTES)
    except (OSError, OddFile):
        return ()
    names = (name[1] for found in _MEMBERS.finditer(content) for name in _MEMBER.finditer(found[1]))
    return tuple(name.decode() for name in dict.fromkeys(islice(names, _MOST_MEMBERS)))
