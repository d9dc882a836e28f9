"""Repository: which versions lie in the models folder, and whether a folder has changed."""

import re
from collections.abc import Iterator
from pathlib import Path

from app.errors import NotFound

Fingerprint = tuple[tuple[str, int, int], ...]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]*")


class Repository:
    """A folder of `<name>/<version>/` folders. Anything else in it is left alone."""

    def __init__(self, folder: Path):
        self.folder = folder

    def names(self) -> list[str]:
        """Names with at least one version, sorted."""
        return sorted(path.name for path in self._folders(self.folder, _NAME) if self.versions(path.name))

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending; none for a name that is none."""
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
        """Name, size and time of every file of a version: it changes when the folder does."""
        folder = self.folder / name / str(version)
        files = []
        for path in sorted(folder.rglob("*")):
            try:
                stat = path.stat()
            except OSError:  # removed meanwhile, or a link to nothing
                continue
            files.append((str(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns))
        return tuple(files)

    @staticmethod
    def _folders(parent: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
        try:
            children = list(parent.iterdir())
        except OSError:
            return
        yield from (path for path in children if pattern.fullmatch(path.name) and path.is_dir())
