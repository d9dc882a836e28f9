"""Deployment: what should be served, written down in `<state dir>/<name>.json`.

The file is the truth: every process that serves reads it and converges. It is replaced atomically,
under a lock file, so that writers on one machine or volume follow one another.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import NerveError


class Deployment(BaseModel):
    """The desired state of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stable: int | None = Field(None, ge=1, description="version that answers requests")
    previous: int | None = Field(None, ge=1, description="what `rollback` goes back to")
    generation: int = Field(0, ge=0, description="counts the changes of this file")

    def with_stable(self, version: int) -> "Deployment":
        """This deployment with another stable version; the old one becomes `previous`."""
        if version == self.stable:
            return self
        return Deployment(stable=version, previous=self.stable, generation=self.generation + 1)


class StateUnreadable(NerveError):
    """A state file exists and is no deployment."""

    code = "state_unreadable"


class StateUnwritable(NerveError):
    """The state folder cannot be written."""

    code = "state_unwritable"


class DeploymentStore:
    """The state files of one state folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def read(self, name: str) -> Deployment | None:
        """The model's deployment, or None where none was ever written.

        Raises:
            StateUnreadable: the file is torn or was edited into something else.
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

    def edit(self, name: str, change: Callable[[Deployment], Deployment]) -> Deployment:
        """Read, change and write, alone.

        Raises:
            StateUnreadable: the file is torn.
            StateUnwritable: it cannot be written; it stays as it was.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f".{name}.lock"):
                before = self.read(name) or Deployment()
                after = change(before)
                if after != before:
                    self._write(self.path(name), after)
                return after
        except OSError as error:
            raise StateUnwritable(
                f"{self.path(name)}: cannot be written: {error}; make the folder writable, or set "
                "NERVE_STATE_DIR to one that is"
            ) from error

    @staticmethod
    def _write(path: Path, deployment: Deployment) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(deployment.model_dump()) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
