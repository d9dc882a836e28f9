"""Request and response bodies of the native API."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.versions.rollout.desired import Canary, Deployment
from app.versions.rollout.manager import State
from app.versions.rollout.workers import Lagging

OffsetUnit = Literal["codepoint", "utf16", "byte"]


class NerOptions(BaseModel):
    """What a request may ask for beside its text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str | None = Field(
        None,
        description="Name of the model; the server's default where not given.",
        examples=["ner-en"],
    )
    version: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="A version to pin; the one that serves where not given.",
        examples=[1],
    )
    labels: list[str] | None = Field(
        None, description="Return only entities of these labels.", examples=[["PER", "LOC"]]
    )
    min_score: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Return only entities whose score reaches this and their label's threshold.",
        examples=[0.5],
    )
    agreement: bool = Field(
        False,
        description="Return of each entity the share of an ensemble's members that found exactly it; null "
        "where a single model answers.",
        examples=[True],
    )
    offset_unit: OffsetUnit = Field(
        "codepoint",
        description="What `start` and `end` count: Unicode code points (Python), UTF-16 code units "
        "(JavaScript, Java, C#), or bytes of UTF-8 (Go, Rust).",
        examples=["utf16"],
    )


class NerRequest(NerOptions):
    """Exactly one of `text` and `texts`."""

    text: str | None = Field(
        None, description="One text.", examples=["Angela Merkel visited IBM in New York."]
    )
    texts: list[str] | None = Field(
        None,
        description="Several texts; the answer has their order.",
        examples=[["Angela Merkel visited IBM in New York.", "Nothing here."]],
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give exactly one of 'text' and 'texts'")
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts, be it one or several."""
        return [self.text] if self.text is not None else self.texts or []


class EntityBody(BaseModel):
    """A span of the text with a label."""

    text: str = Field(description="The text between `start` and `end`.", examples=["Angela Merkel"])
    label: str = Field(description="What it is.", examples=["PER"])
    start: int = Field(description="Where it starts, in the unit asked for.", examples=[0])
    end: int = Field(description="Where it ends, exclusive.", examples=[13])
    score: float = Field(
        description="Probability, under the model, of exactly this span with this label.",
        examples=[0.998],
    )
    agreement: float | None = Field(
        None,
        description="Where `agreement` was asked for: the share of the ensemble's weight whose members "
        "found exactly this entity.",
        examples=[0.6667],
    )


class NerResult(BaseModel):
    """The entities of one text."""

    windows: int = Field(description="Windows the text was run in; 0 for a blank one.", examples=[1])
    entities: list[EntityBody] = Field(description="In the order of the text, without overlap.")


class NerResponse(NerResult):
    """Answer to `text`."""

    model: str = Field(description="The model that answered.", examples=["ner-en"])
    version: int = Field(description="The version that answered.", examples=[1])


class NerBatchResponse(BaseModel):
    """Answer to `texts`."""

    model: str = Field(description="The model that answered.", examples=["ner-en"])
    version: int = Field(description="The version that answered all of them.", examples=[1])
    results: list[NerResult] = Field(description="In the order of the texts.")


class DeploymentBody(Deployment):
    """What should be served, after a change: and whether it already is."""

    converged: bool = Field(description="Whether every worker of this server serves it.")
    waiting_for: list[Lagging] = Field(description="Workers that do not, and what keeps each.")


class VersionBody(BaseModel):
    """One version of a model."""

    version: int = Field(description="Its number, which is its folder's name.", examples=[1])
    state: State = Field(
        description="`found`: not checked yet. `ready`: passed its checks. `loaded`: for requests "
        "that pin it. `serving`: answers requests. `canary`: answers a share of them. `shadow`: gets "
        "copies of them. `refused`: see `reason`."
    )
    reason: str | None = Field(None, description="Why it was refused, and what to do.")
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
    """A shadow, and how far it agrees with the version that is stable now, on the copies that it ran."""

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
