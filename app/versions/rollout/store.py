"""Store: reads and writes the desired state of each model in `<state dir>/<name>.json`.

Every process that serves reads this file and follows it. It is replaced atomically under a lock file, so
that writers take turns. Each change is appended to `<state dir>/<name>.history.jsonl` under the same lock.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from filelock import FileLock
from pydantic import Field, ValidationError

from app.errors import NerveError, RequestError
from app.files import OddFile, read_bytes, regular, write_whole
from app.versions.rollout.desired import Deployment, Frozen
from app.versions.storage.repository import Repository

_STATE_BYTES = 65_536
"""Most bytes of a state file; far more than a deployment has."""

_LAST_BYTES = 65_536
"""Bytes at the end of a history that are read to find its last line; far more than a line has."""

_MOST_BYTES = 1024**2
"""A history that is longer is cut: its last changes are kept."""

_KEPT_CHANGES, _KEPT_BYTES = 1_000, _MOST_BYTES // 2
"""So many of the last changes are kept, if they have no more bytes than this; so cuts are rare."""


class Change(Frozen):
    """One line of the history."""

    at: str = Field(description="when, ISO 8601, UTC")
    by: str = Field(description="operating-system user, client address, or Nerve itself and why")
    action: str = Field(description="what was done, such as `activate`")
    deployment: Deployment = Field(description="the desired state after it")


class GenerationChanged(RequestError):
    """The deployment was changed by somebody else in the meantime."""

    kind = "precondition"
    code = "generation_changed"


class StateUnreadable(NerveError):
    """A state file exists but is not a deployment, or cannot be read now."""

    code = "state_unreadable"


class StateUnwritable(NerveError):
    """The state folder cannot be written."""

    code = "state_unwritable"


class DeploymentStore:
    """Keeps the desired states of all models in one state folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the state file of a model."""
        return self.folder / f"{name}.json"

    def read(self, name: str) -> Deployment | None:
        """Return the model's deployment; None if none was ever written.

        Raises:
            StateUnreadable: the file is damaged or is not a deployment, or cannot be read now.
        """
        path = self.path(name)
        try:
            return Deployment.model_validate_json(read_bytes(path, _STATE_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateUnreadable(
                f"{path}: cannot be read now ({error.strerror}); what serves goes on, and it is tried again"
            ) from None
        except (OddFile, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise StateUnreadable(
                f"{path}: not a deployment ({first}); mend it, or delete it and activate a version"
            ) from None

    def edit(
        self,
        name: str,
        change: Callable[[Deployment], Deployment],
        by: str = "nerve",
        action: str = "edit",
        expected: int | None = None,
    ) -> Deployment:
        """Read, change and write the state under the lock, with its generation counted up.

        Args:
            by: who makes the change, for the history.
            action: what is done, for the history.
            expected: the generation that the change was made for; None allows any.

        Raises:
            StateUnreadable: the file is damaged.
            StateUnwritable: the file cannot be written; it stays as it was.
            GenerationChanged: the generation is not the expected one.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{name}.lock"):
                before = self.read(name) or self._first(name)
                check_generation(name, before, expected)
                after = change(before)
                if after == before:
                    return before
                after = after.model_copy(update={"generation": before.generation + 1})
                with self._recorded(
                    name, before, Change(at=_now(), by=by, action=action, deployment=after)
                ):
                    write_whole(self.path(name), after.model_dump_json() + "\n")
                return after
        except OSError as error:
            raise StateUnwritable(
                f"{self.path(name)}: cannot be written: {error}; free space, or make the folder writable, "
                "or set NERVE_STATE_DIR to one that is"
            ) from error

    def last(self, name: str) -> Change | None:
        """Return the last change; None if there is none that can be read."""
        try:
            return self._last(name)
        except OSError:
            return None

    def history(self, name: str, limit: int | None = None) -> list[Change]:
        """Return the last changes, oldest first. Lines that a crash cut short are left out.

        Args:
            limit: how many at most.

        Raises:
            StateUnreadable: the history cannot be read now.
        """
        try:
            lines = self._tail(name, _MOST_BYTES)
        except OSError as error:
            path = self._history(name)
            raise StateUnreadable(f"{path}: cannot be read now ({error.strerror}); try again") from None
        found = islice(filter(None, map(_parsed, reversed(lines))), limit)
        return list(found)[::-1]

    def _first(self, name: str) -> Deployment:
        """Return the state for a missing file; its generation continues the history's.

        Raises:
            OSError: the history cannot be read.
        """
        last = self._last(name)
        return Deployment(generation=last.deployment.generation if last else 0)

    def _last(self, name: str) -> Change | None:
        return next(filter(None, map(_parsed, reversed(self._tail(name, _LAST_BYTES)))), None)

    def _tail(self, name: str, most: int) -> list[bytes]:
        """Return the last lines of a history, of which the first may be cut; none if there is no history.

        Raises:
            OSError: the history cannot be read.
        """
        try:
            with regular(self._history(name)) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
                return file.read(most).splitlines()
        except FileNotFoundError:
            return []
        except OddFile as error:
            raise OSError(errno.EINVAL, f"{self._history(name).name} {error}") from error

    def _cut(self, name: str) -> None:
        """Keep only the last changes of a history that has become too long; the lock must be held.

        Raises:
            OSError: it cannot be read or written; it stays as it was.
        """
        path = self._history(name)
        try:
            if path.stat().st_size <= _MOST_BYTES:
                return
        except FileNotFoundError:
            return
        kept: list[str] = []
        room = _KEPT_BYTES
        for line in reversed(self._tail(name, _MOST_BYTES)):
            room -= len(line) + 1
            if len(kept) == _KEPT_CHANGES or (kept and room < 0):
                break
            if _parsed(line):
                kept.append(line.decode() + "\n")
        write_whole(path, "".join(reversed(kept)))

    def _history(self, name: str) -> Path:
        return self.folder / f"{name}.history.jsonl"

    @contextmanager
    def _recorded(self, name: str, before: Deployment, change: Change) -> Iterator[None]:
        """Append a change to the history, and remove it again if writing the state fails.

        The history is written first, so that no change goes unrecorded. A crash between the two writes
        leaves a line for a change that never happened. The next change notices the difference, like that of
        an edit by hand, and records the state that it found.
        """
        self._cut(name)
        path, lines = self._history(name), [change]
        last = self._last(name)
        if last and last.deployment != before:
            lines.insert(0, Change(at=_now(), by="unknown", action="found", deployment=before))
        text = "".join(line.model_dump_json() + "\n" for line in lines).encode()
        with path.open("ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                text = text if file.read(1) == b"\n" else b"\n" + text
            try:
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
                yield
            except BaseException:
                os.truncate(path, size)
                raise


def version_to_serve(name: str, repository: Repository, store: DeploymentStore) -> int:
    """Return the version that should be stable: the desired one, or the highest if none is desired yet.

    Raises:
        NotFound: there is no such model. StateUnreadable: its state file is torn.
    """
    highest = repository.require(name)[-1]
    deployment = store.read(name)
    return (deployment and deployment.stable) or highest


def check_generation(name: str, deployment: Deployment, expected: int | None) -> None:
    """Check that a change was made for the present generation of a deployment.

    Raises:
        GenerationChanged: the deployment has another generation than the change was made for.
    """
    if expected not in (None, deployment.generation):
        raise GenerationChanged(
            f"{name}: its deployment has generation {deployment.generation} and the change is for "
            f"{expected}; read it again (GET /models/{name}/deployment) and decide anew"
        )


def _parsed(line: bytes) -> Change | None:
    try:
        return Change.model_validate_json(line)
    except ValidationError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
