"""Slicing a text by `start:end` in the unit that was asked for gives the entity's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.entities import Entity
from app.rendering import OffsetUnit, positions, render
from tests.answers import UNITS, slice_in
from tests.texts import texts


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
    rendered = render(text, [Entity(4, 10, "PER", 0.75), Entity(11, 13, "LOC", 0.5)], unit)
    assert [entity["text"] for entity in rendered] == ["Angéla", "北京"]
    for entity in rendered:
        assert slice_in(unit, text, entity["start"], entity["end"]) == entity["text"]


def test_scores_and_agreement_have_four_digits() -> None:
    entities = [Entity(0, 1, "PER", 0.123456, 2 / 3), Entity(2, 3, "LOC", 1.0)]
    plain = render("a b", entities)
    assert [entity["score"] for entity in plain] == [0.1235, 1.0]
    assert not any("agreement" in entity for entity in plain)
    assert [entity["agreement"] for entity in render("a b", entities, agreement=True)] == [0.6667, None]
