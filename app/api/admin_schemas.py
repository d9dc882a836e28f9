"""Admin schemas: the bodies of `/models`."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.versions.rollout.desired import Canary, Deployment
from app.versions.rollout.manager import State
from app.versions.rollout.workers import Lagging


class NothingBody(BaseModel):
    """An object without fields."""

    model_config = ConfigDict(extra="forbid")


class DeploymentBody(Deployment):
    """What should be served after a change, and whether it already is."""

    converged: bool = Field(description="Whether every worker of this server serves it.")
    waiting_for: list[Lagging] = Field(description="Workers that do not, and what keeps each.")


class VersionBody(BaseModel):
    """One version of a model."""

    version: int = Field(description="Its number, which is its folder's name.", examples=[1])
    state: State = Field(
        description="`found`: not checked yet. `unchecked`: a check came to no outcome, for a `reason` "
        "that is not the version's own, and is repeated. `ready`: passed its checks. `loaded`: for "
        "requests that pin it. `serving`: answers requests. `canary`: answers a share of them. `shadow`: "
        "gets copies of them. `refused`: see `reason`."
    )
    reason: str | None = Field(
        None, description="Why it was refused, or could not be checked, and what to do."
    )
    description: str | None = Field(None, description="What it is, from the manifest.")
    labels: list[str] | None = Field(None, description="What it finds.", examples=[["PER", "ORG", "LOC"]])
    languages: list[str] | None = Field(None, description="What it reads.", examples=[["en"]])
    license: str | None = Field(None, description="Of its weights.", examples=["CC-BY-SA-4.0"])
    precision: str | None = Field(None, description="The variant that is loaded.")
    provider: str | None = Field(None, description="The execution provider it runs on.")
    threads: int | None = Field(None, description="Threads that run it.", examples=[2])
    runs: int | None = Field(
        None, description="Batches at a time, among which the threads are parted.", examples=[2]
    )
    metrics: dict[str, Any] | None = Field(None, description="From the manifest.")


class ShadowBody(BaseModel):
    """A shadow, and how far it agrees with the present stable version, on the copies that it ran."""

    version: int = Field(description="The version.", examples=[5])
    percent: float = Field(description="Share of the requests that it gets copies of.", examples=[10])
    texts: int = Field(
        description="Texts compared, by all workers, since this server started, against the version that "
        "is stable now."
    )
    same: int = Field(description="Of them with the same entities.")
    same_spans: int = Field(description="Of them with the same spans, labels aside.")
    dropped: int = Field(
        description="Copies that were not run since this server started, whichever version was stable: "
        "there was no spare capacity, or it failed."
    )
    f1: float = Field(description="Of its entities, with the stable version's taken for right; 0 to 1.")
    f1_by_label: dict[str, float] = Field(description="The same of each label that one of them found.")


class ModelBody(BaseModel):
    """A model with its versions."""

    name: str = Field(description="Its name, which is its folder's name.", examples=["ner-en"])
    serving: int | None = Field(description="The version that answers now.")
    stable: int | None = Field(description="The version that should.")
    previous: int | None = Field(description="What `rollback` goes back to.")
    canary: Canary | None = Field(description="The version that should answer a share of the requests.")
    shadow: list[ShadowBody] = Field(description="The versions that should get copies of them.")
    generation: int = Field(description="Counts the changes of what should be served.")
    problem: str | None = Field(
        None, description="Why what should serve does not, or cannot be known, and what to do."
    )
    versions: list[VersionBody] = Field(description="Ascending.")


class ModelsBody(BaseModel):
    """Every model."""

    default: str = Field(description="The model of requests that name none.", examples=["ner-en"])
    workers: int = Field(description="Processes that serve, as was chosen at start.", examples=[1])
    models: list[ModelBody] = Field(description="By name.")
