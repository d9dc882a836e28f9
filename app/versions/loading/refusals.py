"""Refusals tell why a version was refused and what to do, from the errors that libraries raise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import InferenceFailed, NerveError, VersionRefused
from app.manifest import MANIFEST

_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "can't start new thread")
"""Parts of the messages of runtimes that got no memory or thread from the system."""


@contextmanager
def refusing(where: str, what: str) -> Iterator[None]:
    """Turn any error of a library into a refusal that names a remedy.

    Args:
        where: the version, as `<name>/<version>`.
        what: step that the version fails at, for the message, such as "cannot be loaded".
    """
    try:
        yield
    except VersionRefused as error:
        if error.message.startswith(f"{where}: "):
            raise
        raise VersionRefused(f"{where}: {error.message}") from error
    except Exception as error:
        said = " ".join(str(error).split()) or repr(error)
        if isinstance(error, MemoryError) or any(sign in said for sign in _OUT_OF_MEMORY):
            raise VersionRefused(
                f"{where}: there is not enough memory to load it ({said}); give the "
                "process more (the container's limit, NERVE_LOAD_MEMORY_BYTES), or name a smaller variant "
                "(NERVE_VARIANT)"
            ) from error
        if isinstance(error, NerveError) and not isinstance(error, InferenceFailed):
            raise VersionRefused(f"{where}: {error.message}") from error
        raise VersionRefused(f"{where}: {what}: {said}; export it again") from error


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
