"""Cost: what a batch costs, as the batches that run show."""

from dataclasses import replace

from app.engine.runtimes.cost import Cost

_MEMORY = 0.995
"""The part of what is known that each batch leaves: some 200 batches count."""

STALL = 4.0
"""A batch that takes more times as long as expected says something of the machine's other work, and counts
as if it had taken so many times as long."""

_PRIOR = 2 * (16, 64, 256)
"""What warm-up found counts as batches of these sizes, for good: batches all of one size say nothing of
others, and a single one that stalls says little."""


class CostMeter:
    """Refines the cost of a batch from batches that ran: least squares over their sizes, old ones fading.

    Warm-up measures for a moment only, and often beside others that load the machine. What padding and
    pairs take, as part of a sub-token, stays as warm-up found it.

    Args:
        cost: as warm-up found it.
    """

    def __init__(self, cost: Cost):
        self.cost = cost
        self._prior = [0.0] * 5
        for size in _PRIOR:
            _add(self._prior, size, cost.fixed + cost.per_token * size)
        self._sums = [0.0] * 5

    def observe(self, rows: int, longest: int, tokens: int, seconds: float) -> None:
        """Note that a batch of so many real sub-tokens took so long."""
        seconds = min(seconds, STALL * self.cost.of(rows, longest, tokens))
        self._sums = [_MEMORY * value for value in self._sums]
        _add(self._sums, self.cost.size(rows, longest, tokens), seconds)
        n, x, y, xx, xy = (ours + prior for ours, prior in zip(self._sums, self._prior, strict=True))
        per_token = (n * xy - x * y) / (n * xx - x * x)
        per_token = min(max(per_token, 1e-8), y / x)  # neither part is below nothing
        fixed = max((y - per_token * x) / n, 1e-6)
        self.cost = replace(self.cost, fixed=fixed, per_token=per_token)


def _add(sums: list[float], size: float, seconds: float) -> None:
    """Add a batch to the five sums that a line through all batches follows from."""
    for index, value in enumerate((1.0, size, seconds, size * size, size * seconds)):
        sums[index] += value
