"""Entity scores count an entity as right if both its span and its label are exactly right."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from training.data.documents import Span


@dataclass(frozen=True)
class Percentages:
    """Holds scores in percent, to two decimals; `support` counts the meant entities (or words)."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Score:
    """Holds the counts of one label, or of all together, and its scores from 0 to 1."""

    right: int = 0
    found: int = 0
    meant: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.meant if self.meant else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.found + self.meant) if self.found + self.meant else 0.0

    @property
    def percentages(self) -> Percentages:
        return Percentages(
            round(100 * self.precision, 2),
            round(100 * self.recall, 2),
            round(100 * self.f1, 2),
            self.meant,
        )


@dataclass(frozen=True)
class Scores:
    """Holds the micro average over all labels, and the score of each label."""

    overall: Score = Score()
    labels: dict[str, Score] = field(default_factory=dict)


def score(
    found: Sequence[Iterable[Span]],
    meant: Sequence[Iterable[Span]],
    labels: Sequence[str],
) -> Scores:
    """Compare the found spans of each text with the meant ones."""
    right, seen, gold = Counter[str](), Counter[str](), Counter[str]()
    for a, b in zip(found, meant, strict=True):
        left, wanted = set(a), set(b)
        right.update(span.label for span in left & wanted)
        seen.update(span.label for span in left)
        gold.update(span.label for span in wanted)
    return Scores(
        Score(right.total(), seen.total(), gold.total()),
        {label: Score(right[label], seen[label], gold[label]) for label in labels},
    )
