"""Native schemas: the bodies of requests and answers of the native dialect."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.rendering import OffsetUnit


class NerOptions(BaseModel):
    """The options of a request."""

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
    labels: list[Annotated[str, Field(max_length=100)]] | None = Field(
        None,
        max_length=100,
        description="Return only entities of these labels.",
        examples=[["PER", "LOC"]],
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
    """A request with exactly one of `text` and `texts`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["text"],
                    "properties": {"text": {"type": "string"}, "texts": {"type": "null"}},
                },
                {
                    "required": ["texts"],
                    "properties": {"texts": {"type": "array"}, "text": {"type": "null"}},
                },
            ]
        }
    )

    text: str | None = Field(
        None, description="One text.", examples=["Angela Merkel visited IBM in New York."]
    )
    texts: Annotated[list[str], Field(fail_fast=True)] | None = Field(
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
        """Return the texts, one or several."""
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
    """The answer to `text`."""

    model: str = Field(description="The model that answered.", examples=["ner-en"])
    version: int = Field(description="The version that answered.", examples=[1])


class NerBatchResponse(BaseModel):
    """The answer to `texts`."""

    model: str = Field(description="The model that answered.", examples=["ner-en"])
    version: int = Field(description="The version that answered all of them.", examples=[1])
    results: list[NerResult] = Field(description="In the order of the texts.")
