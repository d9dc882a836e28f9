"""Store: reads and writes the desired state of each model in `<state dir>/<name>.json`.

Every process that serves reads this file and follows it. It is replaced atomically under a lock file, so
that writers take turns. Each change is appended to `<state dir>/<name>.history.jsonl` under the same lock.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import Field, ValidationError

from app.errors import NerveError, RequestError
from app.files import write_whole
from app.versions.rollout.desired import Deployment, Frozen
from app.versions.storage.repository import Repository

_LAST_BYTES = 65_536
"""Bytes at the end of a history that are read to find its last line; far more than a line has."""


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
    """A state file exists but is not a deployment."""

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
            StateUnreadable: the file is damaged or is not a deployment.
        """
        path = self.path(name)
        try:
            return Deployment.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
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
            with self._history(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return None
        return next(filter(None, map(_parsed, reversed(lines))), None)

    def history(self, name: str) -> list[Change]:
        """Return every change, the oldest first. Lines that a crash cut short are left out."""
        try:
            lines = self._history(name).read_bytes().splitlines()
        except OSError:
            return []
        return list(filter(None, map(_parsed, lines)))

    def _first(self, name: str) -> Deployment:
        """Return the state for a missing file; its generation continues the history's."""
        last = self.last(name)
        return Deployment(generation=last.deployment.generation if last else 0)

    def _history(self, name: str) -> Path:
        return self.folder / f"{name}.history.jsonl"

    @contextmanager
    def _recorded(self, name: str, before: Deployment, change: Change) -> Iterator[None]:
        """Append a change to the history, and remove it again if writing the state fails.

        The history is written first, so that no change goes unrecorded. A crash between the two writes
        leaves a line for a change that never happened. The next change notices the difference, like that of
        an edit by hand, and records the state that it found.
        """
        path, lines = self._history(name), [change]
        last = self.last(name)
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
