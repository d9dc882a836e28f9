"""Desired state: says which versions of a model should serve, and in which roles.

These are plain values; `app.versions.rollout.store` reads and writes them.
"""

import re
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from app.errors import RequestError

Number = Annotated[int, Field(ge=1, le=10**18)]
"""A version's number."""

_STICKY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
"""What a request header may be called (RFC 9110), and no longer than anybody needs."""

_MOST_SHADOWS = 16


class Frozen(BaseModel):
    """Base of values that are read strictly from JSON: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AbortRule(Frozen):
    """Says when a canary is withdrawn automatically. Each worker judges the requests it has answered."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["errors"], "properties": {"errors": {"type": "number"}}},
                {"required": ["p99"], "properties": {"p99": {"type": "number"}}},
            ]
        }
    )

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


class Canary(Frozen):
    """A version that answers a share of the requests."""

    version: Number = Field(description="which", examples=[4])
    percent: float = Field(ge=0, le=100, description="share of the requests", examples=[5])
    sticky: str | None = Field(
        None,
        min_length=1,
        description="what decides who is answered by it: `text`, a hash of the text, or the name of a "
        "request header, a hash of its value; without it, chance",
        examples=["X-User-Id"],
        json_schema_extra={"pattern": f"^{_STICKY.pattern}$", "maxLength": 64},
    )
    abort: AbortRule | None = Field(None, description="when to withdraw it by itself; never without")


class Shadow(Frozen):
    """A version that gets copies of requests and answers none."""

    version: Number = Field(description="which", examples=[5])
    percent: float = Field(
        ge=0,
        le=100,
        description="share of the stable version's requests that it gets copies of",
        examples=[10],
    )


class Deployment(Frozen):
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
        """Return the versions that answer requests."""
        named = (self.stable, self.canary.version if self.canary else None)
        return {version for version in named if version}

    @property
    def versions(self) -> set[int]:
        """Return every version that should be loaded."""
        return self.answering | {shadow.version for shadow in self.shadow}

    def with_stable(self, version: int) -> "Deployment":
        """Return this deployment with another stable version; the old one becomes `previous`.

        The new stable version is no longer a canary or shadow.
        """
        if version == self.stable:
            return self
        canary = None if self.canary and self.canary.version == version else self.canary
        shadow = tuple(shadow for shadow in self.shadow if shadow.version != version)
        return self.model_copy(
            update={"stable": version, "previous": self.stable, "canary": canary, "shadow": shadow}
        )

    def without_canary(self, version: int) -> "Deployment":
        """Return this deployment without this canary; unchanged if the version is not the canary now."""
        ended = self.canary and self.canary.version == version
        return self.model_copy(update={"canary": None}) if ended else self

    def without(self, version: int) -> "Deployment":
        """Return this deployment without a failed version; the previous one replaces a stable one."""
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


class InvalidDeployment(RequestError):
    """A change contradicts itself or the present deployment."""

    kind = "unprocessable"
    code = "invalid_deployment"


class DeploymentChange(Frozen):
    """Says what should be served from now on. Omitted fields stay; `null` ends a canary or shadows."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    stable: Annotated[
        Number | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 10**18})
    ] = Field(None, description="version that answers; it cannot be null", examples=[2])
    canary: Canary | None = Field(None, description="version that answers a share of the requests")
    shadow: tuple[Shadow, ...] | None = Field(
        None, max_length=_MOST_SHADOWS, description="versions that get copies, all of them"
    )

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of 'stable', 'canary' and 'shadow'")
        if "stable" in self.model_fields_set and self.stable is None:
            raise ValueError("stable: cannot be null; give the version that answers")
        # A state of an older Nerve may have more, and is read; so this is no rule of `Canary` itself.
        sticky = self.canary and self.canary.sticky
        if sticky and not _STICKY.fullmatch(sticky):
            shown = sticky if len(sticky) <= 20 else f"{sticky[:20]}…"
            raise ValueError(
                f"canary.sticky: {shown!r} is neither `text` nor the name of a request header of at most "
                "64 characters, such as X-User-Id"
            )
        return self

    def apply(self, before: Deployment) -> Deployment:
        """Return the deployment after this change.

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
