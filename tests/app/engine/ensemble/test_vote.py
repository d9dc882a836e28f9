import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.decoding.entities import Entity
from app.engine.ensemble.vote import vote, with_agreement
from tests.tiny import LABELS


@given(data=st.data())
def test_entities_of_a_vote_do_not_overlap(data: st.DataObject) -> None:
    answers = data.draw(st.lists(entities(), min_size=2, max_size=5))
    weights = [data.draw(st.floats(1e-3, 1e3)) for _ in answers]
    found = vote(answers, weights)
    last = 0
    for entity in found:
        assert last <= entity.start < entity.end
        last = entity.end
        own = [{span(e): e.score for e in answer}.get(span(entity)) for answer in answers]
        won = [(weight, score) for weight, score in zip(weights, own, strict=True) if score is not None]
        assert entity.agreement == pytest.approx(sum(w for w, _ in won) / sum(weights))
        assert entity.agreement >= 0.5
        assert entity.score == pytest.approx(sum(w * s for w, s in won) / sum(weights))
    if all(list(map(span, answer)) == list(map(span, answers[0])) for answer in answers):
        assert list(map(span, found)) == list(map(span, answers[0]))
    assert with_agreement(found, answers, weights) == tuple(found)


def test_half_of_the_weight_is_not_enough() -> None:
    per, org = Entity(0, 4, "PER", 0.9), Entity(0, 4, "ORG", 0.8)
    assert vote([[per], [org]], [1, 1]) == []
    assert vote([[per], [org], []], [2, 1, 1]) == []
    assert vote([[per], [per], [org]], [1, 1, 1]) == [
        Entity(0, 4, "PER", pytest.approx(0.6), pytest.approx(2 / 3))
    ]
    assert vote([[per], [org]], [1, 1.5]) == [Entity(0, 4, "ORG", pytest.approx(0.48), pytest.approx(0.6))]


@st.composite
def entities(draw: st.DrawFn) -> list[Entity]:
    """An answer: entities in order, without overlap."""
    found, at = [], 0
    for size in draw(st.lists(st.integers(1, 3), max_size=4)):
        if draw(st.booleans()):
            label = draw(st.sampled_from(LABELS[:2]))
            found.append(Entity(at, at + size, label, draw(st.floats(0.1, 1))))
        at += size
    return found


def span(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label
