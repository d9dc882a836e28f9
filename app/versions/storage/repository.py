"""Repository: which versions lie in the models folder, and whether a folder has changed."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from app.errors import NotFound
from app.manifest import MANIFEST

Fingerprint = tuple[tuple[str, int, int], ...]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]*")
_MEMBER = re.compile(f"{_NAME.pattern}/{_VERSION.pattern}")


class Repository:
    """A folder of `<name>/<version>/` folders. Anything else in it is left alone."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[Path, tuple[tuple[str, int, int] | None, tuple[str, ...]]] = {}

    def names(self) -> list[str]:
        """Names with at least one version, sorted."""
        return sorted(path.name for path in self._folders(self.folder, _NAME) if self.versions(path.name))

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending; none where no model can have such a name."""
        if not _NAME.fullmatch(name):
            return []
        return sorted(int(path.name) for path in self._folders(self.folder / name, _VERSION))

    def require(self, name: str) -> list[int]:
        """The versions of a model.

        Raises:
            NotFound: it has none; names the models there are.
        """
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.names()) or "none; see NERVE_MODELS_DIR"
            raise NotFound(f"there is no model {name!r} (there: {known})", "unknown_model")
        return versions

    def path(self, name: str, version: int) -> Path:
        """A version's folder.

        Raises:
            NotFound: there is no such model or version; names those there are.
        """
        versions = self.require(name)
        if version not in versions:
            known = ", ".join(map(str, versions))
            raise NotFound(f"{name} has no version {version} (it has {known})", "unknown_version")
        return self.folder / name / str(version)

    def fingerprint(self, name: str, version: int) -> Fingerprint:
        """Name, size and time of every file of a version, and of an ensemble's members.

        It changes when a folder does, so that an ensemble which lacked a member counts as changed when
        the member comes.
        """
        folder = self.folder / name / str(version)
        files = list(fingerprint(folder))
        for member in self._members(folder, tuple(files)):
            files += [
                (f"{member}/{file}", size, at) for file, size, at in fingerprint(self.folder / member)
            ]
        return tuple(files)

    def _members(self, folder: Path, seen: Fingerprint) -> tuple[str, ...]:
        """The members that a manifest names, read again only where it has changed."""
        manifest = next((file for file in seen if file[0] == MANIFEST), None)
        known = self._seen.get(folder)
        if known and known[0] == manifest:
            return known[1]
        members = _read_members(folder / MANIFEST) if manifest else ()
        self._seen[folder] = (manifest, members)
        return members

    @staticmethod
    def _folders(parent: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
        try:
            children = list(parent.iterdir())
        except OSError:
            return
        yield from (path for path in children if pattern.fullmatch(path.name) and path.is_dir())


def fingerprint(folder: Path) -> Fingerprint:
    """Name, size and time of every file of a folder; nothing where the folder is not there."""
    files = []
    for parent, folders, names in os.walk(folder):  # it passes over what is removed meanwhile
        for name in (*folders, *names):
            path = Path(parent, name)
            try:
                stat = path.stat()
            except OSError:  # the file was removed meanwhile, or is a link to nothing
                continue
            files.append((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(files))


def _read_members(manifest: Path) -> tuple[str, ...]:
    """The names that may be members of an ensemble. Loading checks whether the manifest is right."""
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ()
    members = content.get("members") if isinstance(content, dict) else None
    names = members if isinstance(members, list) else []
    return tuple(name for name in names if isinstance(name, str) and _MEMBER.fullmatch(name))
