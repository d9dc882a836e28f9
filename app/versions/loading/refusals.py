"""Refusals tell why a version was refused and what to do, from the errors that libraries raise.

A version is refused only for its own fault. Where this machine lacks something, such as memory, the version
was not checked, and the same files may pass later.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import InferenceFailed, NerveError, NotChecked, SettingsError, VersionRefused
from app.files import of_the_machine
from app.manifest import MANIFEST
from app.versions.storage.repository import RepositoryUnreadable

_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory", "out of memory")
_OTHERS = (
    "can't start new thread",
    "Resource temporarily unavailable",
    "Too many open files",
    "No space left on device",
    "Disk quota exceeded",
    "Input/output error",
)
"""Parts of the messages of runtimes that did not get from the system what they needed."""


@contextmanager
def refusing(where: str, what: str) -> Iterator[None]:
    """Turn any error of a library into a refusal that names a remedy, or into NotChecked.

    Args:
        where: the version, as `<name>/<version>`.
        what: step that the version fails at, for the message, such as "cannot be loaded".
    """
    try:
        yield
    except NotChecked:
        raise
    except VersionRefused as error:
        if error.message.startswith(f"{where}: "):
            raise
        raise VersionRefused(f"{where}: {error.message}") from error
    except Exception as error:
        if lacking := not_checked(where, error):
            raise lacking from error
        if isinstance(error, NerveError) and not isinstance(error, InferenceFailed):
            raise VersionRefused(f"{where}: {error.message}") from error
        raise VersionRefused(f"{where}: {what}: {_said(error)}; export it again") from error


def not_checked(where: str, error: Exception) -> NotChecked | None:
    """Return the error that says what this machine lacked, or None if the version is to blame."""
    said = _said(error)
    if isinstance(error, RepositoryUnreadable | SettingsError):
        return NotChecked(f"{where}: was not checked ({said})")
    if isinstance(error, MemoryError) or any(sign in said for sign in _MEMORY):
        return NotChecked(
            f"{where}: was not checked (there is not enough memory to load it: {said}; give the process "
            "more, or name a smaller variant with NERVE_VARIANT)",
            memory=True,
        )
    if (isinstance(error, OSError) and of_the_machine(error)) or any(sign in said for sign in _OTHERS):
        return NotChecked(f"{where}: was not checked (the system did not give what it needs: {said})")
    return None


@contextmanager
def still_there(folder: Path) -> Iterator[None]:
    """If a folder is removed while it loads, refuse it with this reason, not with a missing file."""
    try:
        yield
    except VersionRefused as error:
        if (folder / MANIFEST).exists():
            raise
        raise VersionRefused(
            f"{where_of(folder)}: its folder was removed while it was being loaded; copy it to "
            f"{folder} again"
        ) from error


def where_of(folder: Path) -> str:
    """Return the name of a version in messages: `<name>/<version>`."""
    return f"{folder.parent.name}/{folder.name}"


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)
