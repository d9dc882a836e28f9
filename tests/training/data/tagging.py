"""Sentences with entities, and how each scheme spells them: written apart from the code under test."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from app.labels import Scheme
from training.data.documents import Span

SCHEMES: tuple[Scheme, ...] = ("IO", "IOB1", "IOB2", "BIOES")
LABELS = ("PER", "ORG", "LOC")
TOKENS = (
    "Ada",
    "Lund",
    "of",
    "Kestrel",
    "Bay",
    ",",
    "U.S.",
    "Jean-Luc",
    "'s",
    "北京",
    "5",
    "e\u0301t",
    "#",
)

Run = tuple[int, int, str]


@dataclass(frozen=True)
class Tagged:
    """Tokens, and (first, last, label) of their entities, positions inclusive."""

    tokens: list[str]
    runs: list[Run]

    @property
    def text(self) -> str:
        return " ".join(self.tokens)

    @property
    def spans(self) -> tuple[Span, ...]:
        starts = [0]
        for token in self.tokens:
            starts.append(starts[-1] + len(token) + 1)
        return tuple(Span(starts[a], starts[b + 1] - 1, label) for a, b, label in self.runs)

    def touch(self) -> bool:
        """Whether two entities of one label stand side by side, which IO cannot spell."""
        return any(a[1] + 1 == b[0] and a[2] == b[2] for a, b in pairwise(self.runs))


def spell(tagged: Tagged, scheme: Scheme) -> list[str]:
    """The tags of a sentence."""
    tags = ["O"] * len(tagged.tokens)
    before: Run = (-2, -2, "")
    for run in tagged.runs:
        first, last, label = run
        touches = before[1] + 1 == first and before[2] == label
        for at in range(first, last + 1):
            tags[at] = f"I-{label}"
        if scheme == "IOB2" or (scheme == "IOB1" and touches):
            tags[first] = f"B-{label}"
        elif scheme == "BIOES":
            tags[first], tags[last] = f"B-{label}", f"E-{label}"
            if first == last:
                tags[first] = f"S-{label}"
        before = run
    return tags


@st.composite
def runs(draw: st.DrawFn, length: int) -> list[Run]:
    """Entities over `length` positions, ascending and without overlap."""
    edges = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    pieces = [(a, b - 1) for a, b in pairwise(edges)]
    return [(a, b, draw(st.sampled_from(LABELS))) for a, b in pieces if draw(st.booleans())]


@st.composite
def sentences(draw: st.DrawFn) -> Tagged:
    tokens = draw(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=9))
    return Tagged(tokens, draw(runs(len(tokens))))
