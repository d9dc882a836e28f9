"""Pace: what a batch costs on this machine, and how fast the machine gets on, as both are now."""

from dataclasses import replace

from app.engine.runtimes.cost import Cost as Cost

_MEMORY = 0.995
"""Part of what is known that each batch leaves: some 200 batches count."""

_TRUST = 20.0
"""Batches that warm-up counts as at first."""

_REST = 0.1
"""The part of that which is never forgotten: batches all of one size say nothing of others."""

_STALL = 4.0
"""A batch that takes so many times what it should says something of the machine's other work, not of it."""

_HALF_LIFE = 5_000
"""Sub-tokens after which half of the pace is what they took, or more where batches are large."""

_FASTEST = 1e-9
"""Seconds that no sub-token stays below: what is nothing could never grow again."""


class CostMeter:
    """Refines the cost of a batch from batches: least squares over their sizes, old ones fading.

    What padding and pairs take, as part of a sub-token, stays as it was measured.

    Args:
        cost: as warm-up found it.
        sizes: of the batches that it was found with.
    """

    def __init__(self, cost: Cost, sizes: tuple[int, ...] = (16, 64, 256)):
        self.cost = cost
        self._sums = [0.0] * 5
        for size in sizes:
            self._add(self._sums, size, cost.fixed + cost.per_token * size, _TRUST / len(sizes))
        self._prior = [_REST * value for value in self._sums]

    def observe(self, rows: int, longest: int, tokens: int, seconds: float) -> None:
        """A batch of so many real sub-tokens took so long."""
        seconds = min(seconds, _STALL * self.cost.of(rows, longest, tokens))
        self._sums = [_MEMORY * value for value in self._sums]
        self._add(self._sums, self.cost.size(rows, longest, tokens), seconds, 1.0)
        n, x, y, xx, xy = (ours + prior for ours, prior in zip(self._sums, self._prior, strict=True))
        per_token = (n * xy - x * y) / (n * xx - x * x)
        per_token = min(max(per_token, 1e-8), y / x)  # neither part is below nothing
        fixed = max((y - per_token * x) / n, 1e-6)
        self.cost = replace(self.cost, fixed=fixed, per_token=per_token)

    @staticmethod
    def _add(sums: list[float], size: float, seconds: float, weight: float) -> None:
        for index, value in enumerate((1.0, size, seconds, size * size, size * seconds)):
            sums[index] += weight * value


class Pace:
    """Seconds a sub-token takes, whatever they go into, while there is work without a break.

    Args:
        seconds: a guess to begin with.
        beside: sub-tokens that may run beside a batch and be done just after it, so that it seems to have
            taken no time.
    """

    def __init__(self, seconds: float, beside: int = 1_000):
        self._beside = beside
        self._half_life = max(_HALF_LIFE, 4 * beside)
        self._tokens = float(self._half_life)
        self._seconds = seconds * self._half_life
        self._since = 0.0

    @property
    def seconds_per_token(self) -> float:
        return self._seconds / self._tokens

    def begin(self, now: float) -> None:
        """Work starts after a break."""
        self._since = now

    def done(self, tokens: int, now: float) -> None:
        """So many sub-tokens more are done."""
        # Of two that end together, the second may have looked at its clock first.
        now = max(now, self._since)
        # A machine that slept for a minute is as fast as before; one that is slow is so for many batches.
        most = _STALL * (tokens + self._beside) * self.seconds_per_token
        seconds = max(min(now - self._since, most), _FASTEST * tokens)
        fading = 0.5 ** (tokens / self._half_life)
        self._tokens = fading * self._tokens + tokens
        self._seconds = fading * self._seconds + seconds
        self._since = now
