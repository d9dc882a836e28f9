"""This module chooses golden texts, whose entities a version must find wherever it is loaded."""

from collections.abc import Sequence

from app.engine.model import Model
from app.manifest import Golden, GoldenEntity

LEAST_SCORE = 0.9
MOST_TEXTS = 10

CANDIDATES = (
    "Maria Keller moved from Hamburg to Toronto in 2019.",
    "The chancellor met John Whitfield in Brussels on Tuesday.",
    "Nobody at Siemens wanted to comment, said Peter Hoffmann.",
    "Heavy rain fell on Lisbon and Madrid during the weekend.",
    "Google opened an office in Warsaw, and Microsoft followed.",
    "David Okafor plays for Manchester United and lives in Leeds.",
    "In Kenya, Grace Wanjiru founded a school near Nairobi.",
    "The United Nations sent observers to Sudan.",
    "Anna Lindqvist teaches physics at Stanford University.",
    "Our train from Paris to Berlin was late again.",
    "Emily Carter wrote to Amazon about a parcel from China.",
    "She was born in Mumbai and studied in London.",
    "Toyota will build the car in Mexico, Reuters reported.",
    "President Laura Mendes visited Angola last month.",
    "He sold the house in Chicago to Robert Taylor.",
    "The World Bank lent money to Peru.",
)
"""Default sentences, written for this project, for versions without candidates."""


def choose_golden(variants: Sequence[Model], candidates: Sequence[str]) -> tuple[Golden, ...]:
    """Return texts in which every variant finds the same entities, each with a score of at least 0.9.

    Each text is run alone, as in the self-test of a load. At most ten are kept, as each slows a load.
    """
    golden: list[Golden] = []
    for text in candidates or CANDIDATES:
        answers = [variant.predict([text])[0].entities for variant in variants]
        spans = {tuple((e.start, e.end, e.label) for e in entities) for entities in answers}
        sure = all(entity.score >= LEAST_SCORE for entities in answers for entity in entities)
        if answers[0] and len(spans) == 1 and sure:
            entities = tuple(GoldenEntity(start=s, end=e, label=label) for s, e, label in spans.pop())
            golden.append(Golden(text=text, entities=entities))
    return tuple(golden[:MOST_TEXTS])
