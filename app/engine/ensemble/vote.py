"""A vote finds the entities that members with more than half of the weight found exactly.

Any two of these entities have a member in common that found both, and a member's entities do not overlap,
so the vote's do not either. An entity's score is the weighted mean of the members' scores, with 0 for
members that did not find it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import fsum

from app.engine.decoding.entities import Entity


def vote(answers: Sequence[Sequence[Entity]], weights: Sequence[float]) -> list[Entity]:
    """Return the entities that members with more than half of the weight found, in order, without overlap.

    Args:
        answers: entities that each member found in one text.
        weights: weight of each member, positive.
    """
    total = fsum(weights)
    scores: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    for entities, weight in zip(answers, weights, strict=True):
        for entity in entities:
            scores.setdefault(_span(entity), []).append((weight, entity.score))
    found = []
    for (start, end, label), parts in sorted(scores.items()):
        won = fsum(weight for weight, _ in parts)
        if 2 * won > total:  # rounding keeps the order of sums, so equality is never taken for more
            score = fsum(weight * score for weight, score in parts) / total
            found.append(Entity(start, end, label, min(1.0, score), min(1.0, won / total)))
    return found


def with_agreement(
    entities: Iterable[Entity], answers: Sequence[Sequence[Entity]], weights: Sequence[float]
) -> tuple[Entity, ...]:
    """Return the entities with `agreement`: the share of the weight of members that found the same one."""
    total = fsum(weights)
    own = [frozenset(map(_span, answer)) for answer in answers]

    def share(entity: Entity) -> float:
        span = _span(entity)
        found = fsum(weight for spans, weight in zip(own, weights, strict=True) if span in spans)
        return min(1.0, found / total)

    return tuple(replace(entity, agreement=share(entity)) for entity in entities)


def _span(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label
