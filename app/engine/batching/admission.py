"""Admission: who may join the queue, and when to come again who may not. It knows no thread and no clock.

A request that is taken and then not done in time has cost the machine what others could have had: with
many of them a server works at full speed and answers nobody. So a request is taken only if it will be done
by its deadline with room to spare. That costs nothing: the queue has to be never empty, it need not be
long.
"""

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any

from app.engine.batching.queue import Queue
from app.engine.batching.rate import Rate
from app.engine.batching.size_classes import size_class_of
from app.errors import Busy

_MARGIN = 0.5
"""Part of the time until its deadline that a request may be expected to take; the rest is for surprises. So
the machine may become half as fast at once, and nobody who was taken is late."""


class Admission:
    """The one door to a queue.

    Args:
        queue: what waits.
        rate: how fast that gets less.
        max_queue_tokens: sub-tokens that may wait. A request that comes to an empty queue is taken
            whatever its size.
        overtaking: tells of a size class how many sub-tokens may come later than a row and run before it.
    """

    def __init__(
        self, queue: Queue[Any], rate: Rate, max_queue_tokens: int, overtaking: Callable[[int], int]
    ):
        self._queue = queue
        self._rate = rate
        self._max_queue_tokens = max_queue_tokens
        self._overtaking = overtaking
        self._coming: Counter[int] = Counter()  # of each size class, queued once they are counted
        self.coming = 0
        """Sub-tokens that were admitted and are not queued yet."""

    def admit(self, tokens: int, seconds_left: float) -> None:
        """Make room for a request of some `tokens` sub-tokens, which `queued` takes back.

        Args:
            seconds_left: until its deadline; infinity for none.

        Raises:
            Busy: the queue has no room, or the request would hardly be answered in time. Who comes again
                after `retry_after` finds room, if the machine goes on as it does and nobody else comes
                before.
        """
        waiting = self._queue.tokens + self.coming
        if waiting:
            self._refuse(tokens, waiting, seconds_left)
        self._coming[size_class_of(tokens)] += tokens
        self.coming += tokens

    def queued(self, size_class: int, tokens: int) -> None:
        """Note that so many sub-tokens of what was admitted are queued now, or will never be."""
        self._coming[size_class] -= tokens
        self.coming -= tokens

    def _refuse(self, tokens: int, waiting: int, seconds_left: float) -> None:
        rate = self._rate.seconds_per_token
        full = min(waiting + tokens - self._max_queue_tokens, waiting)
        late = 0 if seconds_left == inf else self._too_late(tokens, waiting, seconds_left / rate)
        if full > 0 and full >= late:
            raise Busy(
                f"{waiting} sub-tokens wait already and {self._max_queue_tokens} may "
                "(NERVE_MAX_QUEUE_TOKENS); come again later",
                retry_after=full * rate,
            )
        if late > 0:
            raise Busy(
                f"{waiting} sub-tokens wait already, and an answer might take longer than the "
                f"{max(seconds_left, 0):.1f} s that it may; come again later, or allow more time",
                retry_after=late * rate,
                late=True,
            )

    def _too_late(self, tokens: int, waiting: int, left: float) -> int:
        """Sub-tokens that must run before a request may join, if it is to be done while `left` run."""
        # Before its last row runs others have overtaken it: as many as may, if so many come meanwhile.
        overtaking = self._overtaking(size_class_of(tokens))
        allowed = int(max(_MARGIN * left - overtaking, _MARGIN * left / 2))
        over = self._queue.before(tokens, self._coming) + tokens - allowed
        if over <= 0:
            return 0
        if self._queue.before(tokens, self._coming, over) + tokens <= allowed:
            return over
        return waiting  # it is too large for its time, but not for an empty queue
