"""What is true of entities as values."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from app.engine.decoding.entities import Entity, Evidence, Prediction

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
