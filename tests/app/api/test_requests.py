"""Bodies are UTF-8, and slicing a text by `start:end` in the unit asked for gives the entity's text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.requests import parse_json, positions, render_result
from app.api.schemas import NerOptions, NerRequest, OffsetUnit
from app.engine.decoding.entities import Entity, Prediction
from app.errors import BadRequest
from tests.texts import texts

UNITS: list[OffsetUnit] = ["codepoint", "utf16", "byte"]


def slice_in(unit: OffsetUnit, text: str, start: int, end: int) -> str:
    """What a program that counts in `unit` gets."""
    if unit == "codepoint":
        return text[start:end]
    if unit == "utf16":
        return text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")
    return text.encode()[start:end].decode()


@pytest.mark.parametrize("unit", UNITS)
@given(text=texts, data=st.data())
def test_any_slice_is_the_same_in_every_unit(unit: OffsetUnit, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    position = positions(text, unit)
    assert slice_in(unit, text, position(start), position(end)) == text[start:end]


@pytest.mark.parametrize("unit", UNITS)
def test_an_answer_has_the_unit_that_was_asked_for(unit: OffsetUnit) -> None:
    text = "👩‍🚀 Angéla 北京"
    prediction = Prediction((Entity(4, 10, "PER", 0.75), Entity(11, 13, "LOC", 0.5)), 1)
    result = render_result(text, prediction, NerOptions(offset_unit=unit))
    assert [entity["text"] for entity in result["entities"]] == ["Angéla", "北京"]
    for entity in result["entities"]:
        assert slice_in(unit, text, entity["start"], entity["end"]) == entity["text"]


def test_only_what_was_asked_for_is_returned() -> None:
    prediction = Prediction(
        (Entity(0, 1, "PER", 0.7), Entity(2, 3, "LOC", 0.5), Entity(4, 5, "PER", 0.4)), 1
    )

    def starts(**options: object) -> list[int]:
        found = render_result("a b c", prediction, NerOptions.model_validate(options))
        return [entity["start"] for entity in found["entities"]]

    assert starts() == [0, 2, 4]
    assert starts(labels=["PER"]) == [0, 4]
    assert starts(labels=[]) == []
    assert starts(min_score=0.5) == [0, 2]
    assert starts(min_score=0.5, labels=["LOC"]) == [2]
    assert starts(min_score=1.0) == []


@given(text=texts, data=st.data())
def test_a_body_that_is_not_utf8_says_so_wherever_that_is(text: str, data: st.DataObject) -> None:
    fields = '"labels": ["PER"], "text": "first", "text": '
    body = f"{{{fields}{json.dumps(text, ensure_ascii=False)}}}".encode()
    assert parse_json(NerRequest, body).text == text
    wrong = data.draw(
        st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\x80", b"\xf4\x90\x80\x80"])
    )
    at = data.draw(st.integers(0, len(body)))
    with pytest.raises(BadRequest) as raised:
        parse_json(NerRequest, body[:at] + wrong + body[at:])
    assert raised.value.code == "invalid_utf8"
