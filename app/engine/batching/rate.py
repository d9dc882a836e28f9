"""Rate measures how fast the machine works through the queue."""

from app.engine.batching.cost import STALL

_HALF_LIFE = 5
"""The latest sub-tokens make up half of the rate: this many times as many as may run at a time."""

_MOST_WEIGHT = 0.5
"""While the first estimate has at least this weight, too little has run to tell the least seconds."""

_FASTEST = 1e-9
"""A sub-token takes at least this many seconds: growth is limited to a factor, so zero would stay zero."""


class Rate:
    """Measures the seconds that a sub-token takes while the machine is never idle, other work included.

    Args:
        seconds: the first estimate, in seconds a sub-token.
        at_a_time: sub-tokens that may run at a time. Batches that run side by side may end together, so
            that the second seems to take no time; the half-life must span several of them.
    """

    def __init__(self, seconds: float, at_a_time: int = 1_000):
        self._at_a_time = at_a_time
        self._half_life = _HALF_LIFE * at_a_time
        self._tokens = float(self._half_life)
        self._seconds = seconds * self._half_life
        self._since = 0.0
        self._first = seconds
        self._weight = 1.0  # of the first estimate
        self.least = 0.0
        """The least seconds that a sub-token has ever taken; 0 until enough have run to tell. The first
        estimate does not count, because other work may have made it too high."""

    @property
    def seconds_per_token(self) -> float:
        return self._seconds / self._tokens

    def begin(self, now: float) -> None:
        """Note that work starts after an idle time; `now` is in seconds."""
        self._since = now

    def done(self, tokens: int, now: float) -> None:
        """Note that `tokens` more sub-tokens are done at `now`, in seconds."""
        # If two batches end together, the second may have read the clock before the first.
        now = max(now, self._since)
        # One long pause, such as a machine's sleep, must not count in full; a slow machine stays slow.
        most = STALL * (tokens + self._at_a_time) * self.seconds_per_token
        seconds = max(min(now - self._since, most), _FASTEST * tokens)
        fading = 0.5 ** (tokens / self._half_life)
        self._tokens = fading * self._tokens + tokens
        self._seconds = fading * self._seconds + seconds
        self._weight *= fading
        if self._weight < _MOST_WEIGHT:
            first = self._weight * self._half_life
            measured = (self._seconds - first * self._first) / (self._tokens - first)
            self.least = min(self.least or measured, measured)
        self._since = now
