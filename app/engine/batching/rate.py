"""Rate: how fast the machine gets on with what waits."""

from app.engine.batching.cost import STALL

_HALF_LIFE = 5
"""Half of the rate is what the latest sub-tokens took, so many times as many as may run at a time."""

_FASTEST = 1e-9
"""Seconds that a sub-token takes at least: a rate of nothing could never grow again."""


class Rate:
    """Seconds that a sub-token takes while there is work without a break, whatever takes them.

    Args:
        seconds: a guess to begin with.
        at_a_time: sub-tokens that may run at a time. Those beside a batch may be done just after it, so
            that they seem to have taken no time.
    """

    def __init__(self, seconds: float, at_a_time: int = 1_000):
        self._at_a_time = at_a_time
        self._half_life = _HALF_LIFE * at_a_time
        self._tokens = float(self._half_life)
        self._seconds = seconds * self._half_life
        self._since = 0.0

    @property
    def seconds_per_token(self) -> float:
        return self._seconds / self._tokens

    def begin(self, now: float) -> None:
        """Note that work starts after a break."""
        self._since = now

    def done(self, tokens: int, now: float) -> None:
        """Note that so many sub-tokens more are done."""
        # Of two batches that end together, the second may have looked at its clock first.
        now = max(now, self._since)
        # A machine that slept for a minute is as fast as before; one that is slow is so for many batches.
        most = STALL * (tokens + self._at_a_time) * self.seconds_per_token
        seconds = max(min(now - self._since, most), _FASTEST * tokens)
        fading = 0.5 ** (tokens / self._half_life)
        self._tokens = fading * self._tokens + tokens
        self._seconds = fading * self._seconds + seconds
        self._since = now
