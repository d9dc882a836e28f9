"""Bodies of `POST /ner`: which requests are right, and what is told of each field."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.api.dialects.native_schemas import NerBatchResponse, NerOptions, NerRequest, NerResponse
from app.api.statuses import ErrorBody
from tests.servers import Server
from tests.texts import texts
from tests.tiny import TEXT


@given(text=st.none() | texts, several=st.none() | st.lists(texts, max_size=3))
def test_exactly_one_of_text_and_texts_is_asked(text: str | None, several: list[str] | None) -> None:
    if (text is None) == (several is None):
        with pytest.raises(ValidationError, match="give exactly one of 'text' and 'texts'"):
            NerRequest(text=text, texts=several)
    else:
        assert NerRequest(text=text, texts=several).all_texts == ([text] if several is None else several)


def test_null_is_as_if_it_was_left_out() -> None:
    said = NerRequest.model_validate_json('{"text": "a", "texts": null, "model": null, "labels": null}')
    assert said == NerRequest(text="a")


@pytest.mark.parametrize(
    "fields",
    [{"version": "1"}, {"version": 1.0}, {"min_score": "0.5"}, {"agreement": 1}, {"labels": "PER"}],
)
def test_nothing_is_taken_for_another_kind(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(ValidationError) as raised:
        NerOptions.model_validate(fields)
    assert [error["loc"] for error in raised.value.errors()] == [(name,)]


def fields_of(schema: Any) -> Iterator[tuple[str, Any]]:
    yield from schema.get("properties", {}).items()


def test_every_field_is_documented(openapi: Any) -> None:
    schemas = openapi["components"]["schemas"]
    request = schemas["NerRequest"]
    assert {name for name, _ in fields_of(request)} == {
        *("text", "texts", "model", "version", "labels", "min_score", "agreement", "offset_unit")
    }
    answers = ("NerResponse", "NerBatchResponse", "NerResult", "EntityBody", "ErrorBody")
    for schema in (request, *(schemas[name] for name in answers)):
        for name, field in fields_of(schema):
            assert field.get("description"), f"{schema['title']}.{name}"


def test_every_field_has_an_example(openapi: Any) -> None:
    schemas = openapi["components"]["schemas"]
    for schema in (schemas["NerRequest"], schemas["EntityBody"], schemas["ErrorBody"]):
        for name, field in fields_of(schema):
            assert field.get("examples"), f"{schema['title']}.{name}"


def test_answers_are_as_documented(server: Server) -> None:
    one = server.ner(TEXT)
    several = server.client.post("/ner", json={"texts": [TEXT]}).json()
    refused = server.client.post("/ner", json={}).json()
    documented = {NerResponse: one, NerBatchResponse: several, ErrorBody: refused}
    for response, answer in documented.items():
        assert response.model_validate(answer, strict=True).model_dump(exclude_unset=True) == answer
