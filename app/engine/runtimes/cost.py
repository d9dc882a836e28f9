"""Cost: the seconds that a batch takes, as a line over its size."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds that a batch takes: `fixed + per_token * size`.

    Attributes:
        fixed: seconds that every batch takes, however small it is.
        per_token: seconds that each sub-token adds.
        padding: the time of a sub-token of padding, as part of a real one's: 1 where a network computes
            as much for it, less in a packed graph.
        pair: the time that attention takes for each pair of sub-tokens of a row, as part of the time of
            a real sub-token.
    """

    fixed: float = 5e-4
    per_token: float = 4e-5
    padding: float = 1.0
    pair: float = 0.0

    def size(self, rows: int, longest: int, tokens: int) -> float:
        """The number of real sub-tokens that take as long as a batch: its own, its padding and its pairs.

        Args:
            tokens: real sub-tokens of the batch, which has `rows * longest` with its padding.
        """
        padded = rows * longest
        return tokens + self.padding * (padded - tokens) + self.pair * padded * longest

    def of(self, rows: int, longest: int, tokens: int) -> float:
        """Seconds that a batch takes; see `size`."""
        return self.fixed + self.per_token * self.size(rows, longest, tokens)
