"""What is true of entities as values."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.entities import MANY, Entities, Entity, Evidence, Prediction, compact

IBM = Entity(0, 3, "ORG", 0.5)


def test_entities_and_predictions_are_equal_by_value_and_may_be_keys() -> None:
    same = Entity(0, 3, "ORG", 0.5)
    assert {IBM: 1}[same] == 1
    assert {Prediction((IBM,), 1): 1}[Prediction((same,), 1)] == 1
    assert Entity(0, 3, "ORG", 0.5, agreement=1.0) != IBM


def test_of_a_single_network_nobody_agrees_or_does_not() -> None:
    assert IBM.agreement is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (IBM, "score"),
        (Prediction((IBM,), 1), "entities"),
        (Evidence(Prediction((), 0), np.zeros(0), np.zeros(0), np.zeros((0, 3))), "prediction"),
    ],
)
def test_an_answer_that_several_may_hold_does_not_change(value: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, None)


@given(data=st.data(), agreed=st.booleans())
def test_many_entities_are_columns_and_equal_to_what_they_hold(data: st.DataObject, agreed: bool) -> None:
    of = st.tuples(st.sampled_from(["PER", "ORG", "LOC"]), st.integers(0, 100).map(lambda n: n / 100))
    kinds = data.draw(st.lists(of, min_size=1, max_size=20))
    entities = [
        Entity(3 * n, 3 * n + 2, *kinds[n % len(kinds)], 0.5 if agreed else None) for n in range(MANY + 7)
    ]
    many = compact(entities)
    assert isinstance(many, Entities)
    assert many == tuple(entities)
    assert many != entities[1:]
    assert [many[0], many[-1], *many[990:1_010]] == [entities[0], entities[-1], *entities[990:1_010]]
    with pytest.raises(IndexError):
        many[len(entities)]
    labels = data.draw(st.none() | st.frozensets(st.sampled_from(["PER", "ORG", "DOG"])))
    least = data.draw(st.integers(0, 100)) / 100
    assert many.wanted(labels, least) == [
        e for e in entities if (labels is None or e.label in labels) and e.score >= least
    ]
    for label, scores in many.scores():
        assert scores.tolist() == [e.score for e in entities if e.label == label]


def test_few_entities_are_a_tuple() -> None:
    assert compact([IBM] * MANY) == (IBM,) * MANY
    assert isinstance(compact([IBM] * MANY), tuple)
