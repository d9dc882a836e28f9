"""Cost refines the cost model of warm-up with the batches that run."""

from dataclasses import replace

from app.engine.runtimes.cost import Cost

_MEMORY = 0.995
"""Each batch multiplies the weight of earlier batches by this, so that about the last 200 batches count."""

STALL = 4.0
"""A batch that takes more than this many times the expected time was held up by other work of the machine,
and counts as if it had taken just this many times as long."""

_PRIOR = 2 * (16, 64, 256)
"""The cost that warm-up measured counts, for ever, as batches of these sizes. So a line can be fitted even
if all batches have one size, and one slow batch changes little."""


class CostMeter:
    """Fits the cost of a batch to the batches that ran, by least squares over their sizes; old ones fade.

    Warm-up measures only briefly, and often while other work loads the machine. The relative costs of
    padding and of pairs stay as warm-up found them.

    Args:
        cost: the cost that warm-up measured.
    """

    def __init__(self, cost: Cost):
        self.cost = cost
        self._prior = [0.0] * 5
        for size in _PRIOR:
            _add(self._prior, size, cost.fixed + cost.per_token * size)
        self._sums = [0.0] * 5

    def observe(self, rows: int, longest: int, tokens: int, seconds: float) -> None:
        """Note how many seconds a batch took; `tokens` leaves padding out."""
        seconds = min(seconds, STALL * self.cost.of(rows, longest, tokens))
        self._sums = [_MEMORY * value for value in self._sums]
        _add(self._sums, self.cost.size(rows, longest, tokens), seconds)
        n, x, y, xx, xy = (ours + prior for ours, prior in zip(self._sums, self._prior, strict=True))
        per_token = (n * xy - x * y) / (n * xx - x * x)
        per_token = min(max(per_token, 1e-8), y / x)  # neither part may be negative
        fixed = max((y - per_token * x) / n, 1e-6)
        self.cost = replace(self.cost, fixed=fixed, per_token=per_token)


def _add(sums: list[float], size: float, seconds: float) -> None:
    """Add a batch to the five sums from which the line is fitted."""
    for index, value in enumerate((1.0, size, seconds, size * size, size * seconds)):
        sums[index] += value
