"""Deployment: what should be served, written down in `<state dir>/<name>.json`.

The file is the truth: every process that serves reads it and converges. It is replaced atomically,
under a lock file, so that writers on one machine or volume follow one another. Who changed what is
appended to `<state dir>/<name>.history.jsonl` under the same lock.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import NerveError, RequestError
from app.files import write_whole

_LAST_BYTES = 65_536
"""Of the history's end, where its last line is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AbortRule(_Frozen):
    """When a canary is withdrawn by itself. Each worker judges the requests that it has answered."""

    requests: int = Field(
        ge=10,
        le=100_000,
        description="answers of the canary to judge by, its last ones, beside the stable version's last",
        examples=[500],
    )
    errors: float | None = Field(
        None,
        ge=1,
        allow_inf_nan=False,
        description="withdraw it when it fails more than this many times as often as the stable version, "
        "which counts as having failed once",
        examples=[2],
    )
    p99: float | None = Field(
        None,
        ge=1,
        allow_inf_nan=False,
        description="withdraw it when its 99th percentile of latency is more than this many times as long",
        examples=[1.5],
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.errors is None and self.p99 is None:
            raise ValueError("abort needs 'errors' or 'p99', by which to judge")
        return self


class Canary(_Frozen):
    """A version that answers a share of the requests."""

    version: int = Field(ge=1, description="which", examples=[4])
    percent: float = Field(ge=0, le=100, description="share of the requests", examples=[5])
    sticky: str | None = Field(
        None,
        min_length=1,
        description="what decides who is answered by it: `text`, a hash of the text, or the name of a "
        "request header, a hash of its value; without it, chance",
        examples=["X-User-Id"],
    )
    abort: AbortRule | None = Field(None, description="when to withdraw it by itself; never without")


class Shadow(_Frozen):
    """A version that gets copies of requests and answers none."""

    version: int = Field(ge=1, description="which", examples=[5])
    percent: float = Field(
        ge=0,
        le=100,
        description="share of the stable version's requests that it gets copies of",
        examples=[10],
    )


class Deployment(_Frozen):
    """The desired state of one model."""

    stable: int | None = Field(None, ge=1, description="version that answers requests")
    previous: int | None = Field(None, ge=1, description="what `rollback` goes back to")
    canary: Canary | None = Field(None, description="version that answers a share of them")
    shadow: tuple[Shadow, ...] = Field((), description="versions that get copies")
    generation: int = Field(0, ge=0, description="counts the changes of this file")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.canary and self.canary.version == self.stable:
            raise ValueError(f"canary: version {self.stable} is the stable one; name another")
        shadows = [shadow.version for shadow in self.shadow]
        if self.stable in shadows:
            raise ValueError(f"shadow: version {self.stable} is the stable one; name another")
        if len(set(shadows)) != len(shadows):
            raise ValueError("shadow: a version is named twice")
        return self

    @property
    def answering(self) -> set[int]:
        """The versions that answer requests."""
        named = (self.stable, self.canary.version if self.canary else None)
        return {version for version in named if version}

    @property
    def versions(self) -> set[int]:
        """Every version that should be loaded."""
        return self.answering | {shadow.version for shadow in self.shadow}

    def with_stable(self, version: int) -> "Deployment":
        """This deployment with another stable version; the old one becomes `previous`.

        A canary or shadow of that version has done its work.
        """
        if version == self.stable:
            return self
        canary = None if self.canary and self.canary.version == version else self.canary
        shadow = tuple(shadow for shadow in self.shadow if shadow.version != version)
        return self.model_copy(
            update={"stable": version, "previous": self.stable, "canary": canary, "shadow": shadow}
        )

    def without_canary(self, version: int) -> "Deployment":
        """This deployment without this canary, if it still is one; a promotion in between stays."""
        ended = self.canary and self.canary.version == version
        return self.model_copy(update={"canary": None}) if ended else self

    def without(self, version: int) -> "Deployment":
        """This deployment without a version that failed; if it was stable, the previous one is again."""
        changed: dict[str, Any] = {
            "canary": None if self.canary and self.canary.version == version else self.canary,
            "shadow": tuple(shadow for shadow in self.shadow if shadow.version != version),
        }
        if self.stable == version and self.previous:
            changed |= {"stable": self.previous, "previous": None}
            back = self.previous
            changed["canary"] = None if self.canary and self.canary.version == back else changed["canary"]
            changed["shadow"] = tuple(shadow for shadow in changed["shadow"] if shadow.version != back)
        return self.model_copy(update=changed)


class DeploymentChange(_Frozen):
    """What should be served from now on. Fields that are left out stay; `null` ends a canary or shadows."""

    stable: int | None = Field(
        None, ge=1, description="version that answers; it cannot be null", examples=[2]
    )
    canary: Canary | None = Field(None, description="version that answers a share of the requests")
    shadow: tuple[Shadow, ...] | None = Field(None, description="versions that get copies, all of them")

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of 'stable', 'canary' and 'shadow'")
        if "stable" in self.model_fields_set and self.stable is None:
            raise ValueError("stable: cannot be null; give the version that answers")
        return self

    def apply(self, before: Deployment) -> Deployment:
        """The deployment after this change.

        Raises:
            InvalidDeployment: a version would have two roles that exclude each other, or a canary or shadow
                would have no stable version beside it.
        """
        after = before.with_stable(self.stable) if self.stable else before
        update: dict[str, Any] = {}
        if "canary" in self.model_fields_set:
            update["canary"] = self.canary
        if "shadow" in self.model_fields_set:
            update["shadow"] = self.shadow or ()
        if after.stable is None:
            raise InvalidDeployment("no version is stable yet; activate one first, or give 'stable' too")
        try:
            return Deployment.model_validate_json(after.model_copy(update=update).model_dump_json())
        except ValidationError as error:
            reasons = (e["msg"].removeprefix("Value error, ") for e in error.errors())
            raise InvalidDeployment("; ".join(reasons)) from None


class Change(_Frozen):
    """One line of the history."""

    at: str = Field(description="when, ISO 8601, UTC")
    by: str = Field(description="operating-system user, client address, or Nerve itself and why")
    action: str = Field(description="what was done, such as `activate`")
    deployment: Deployment = Field(description="the desired state after it")


class InvalidDeployment(RequestError):
    """A change that contradicts itself or what is deployed."""

    kind = "unprocessable"
    code = "invalid_deployment"


class GenerationChanged(RequestError):
    """Somebody else changed the deployment meanwhile."""

    kind = "precondition"
    code = "generation_changed"


class StateUnreadable(NerveError):
    """A state file exists and is no deployment."""

    code = "state_unreadable"


class StateUnwritable(NerveError):
    """The state folder cannot be written."""

    code = "state_unwritable"


class DeploymentStore:
    """The state files of one state folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

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

    def edit(
        self,
        name: str,
        change: Callable[[Deployment], Deployment],
        by: str = "nerve",
        action: str = "edit",
        expected: int | None = None,
    ) -> Deployment:
        """Read, change, count the generation, and write, alone.

        Args:
            by, action: for the history.
            expected: the generation that the change was made for; None is for any.

        Raises:
            StateUnreadable: the file is torn.
            StateUnwritable: it cannot be written; it stays as it was.
            GenerationChanged: the generation is another than expected.
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
        """The last change, if there is one and it can be read."""
        try:
            with self._history(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = file.read().splitlines()
        except OSError:
            return None
        return next(filter(None, map(_parsed, reversed(lines))), None)

    def history(self, name: str) -> list[Change]:
        """Every change, oldest first; Lines that a crash tore are left out."""
        try:
            lines = self._history(name).read_bytes().splitlines()
        except OSError:
            return []
        return list(filter(None, map(_parsed, lines)))

    def _first(self, name: str) -> Deployment:
        """Where there is no file: one whose generation goes on where a file that was removed ended."""
        last = self.last(name)
        return Deployment(generation=last.deployment.generation if last else 0)

    def _history(self, name: str) -> Path:
        return self.folder / f"{name}.history.jsonl"

    @contextmanager
    def _recorded(self, name: str, before: Deployment, change: Change) -> Iterator[None]:
        """Append to the history, and take it back if what it records fails.

        The history comes first, so that no change goes unrecorded. A crash between the two leaves a change
        that never happened; like one made by hand, it shows by the next, and is set right there.
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


def check_generation(name: str, deployment: Deployment, expected: int | None) -> None:
    """Raises GenerationChanged: the deployment has another generation than a change was made for."""
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
