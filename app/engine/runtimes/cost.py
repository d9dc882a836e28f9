"""The cost of a batch is the seconds that it takes, as a linear function of its size."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Holds the parameters of the seconds that a batch takes: `fixed + per_token * size`.

    Attributes:
        fixed: seconds that every batch takes, however small it is.
        per_token: seconds that each real sub-token adds.
        padding: time of a sub-token of padding divided by that of a real one: 1 if the network computes
            as much for it, less in a packed graph.
        pair: time that attention takes for each pair of sub-tokens of a row, divided by the time of a real
            sub-token.
    """

    fixed: float = 5e-4
    per_token: float = 4e-5
    padding: float = 1.0
    pair: float = 0.0

    def size(self, rows: int, longest: int, tokens: int) -> float:
        """Return a batch's size: the number of real sub-tokens that would take as long as all of the batch.

        Args:
            rows: number of rows.
            longest: sub-tokens of the longest row.
            tokens: real sub-tokens of all rows; with padding they are `rows * longest`.
        """
        padded = rows * longest
        return tokens + self.padding * (padded - tokens) + self.pair * padded * longest

    def of(self, rows: int, longest: int, tokens: int) -> float:
        """Return the seconds that a batch takes; see `size` for the arguments."""
        return self.fixed + self.per_token * self.size(rows, longest, tokens)
