"""Admission decides which requests may join the queue, and when a refused caller should come again.

A request that is admitted and then misses its deadline has wasted time of the machine. With many of them a
server works at full speed and answers none in time. So a request is admitted only if it is expected to be
done well before its deadline. This costs no speed, since a short queue keeps the machine as busy as a long
one. The module uses no thread and no clock.
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
"""A request may be expected to take at most this part of the time until its deadline. So the machine can
suddenly become half as fast, and admitted requests are still in time."""


class Admission:
    """Admits requests to a queue, or refuses them.

    Args:
        queue: the rows that wait.
        rate: how many seconds a sub-token takes now.
        max_queue_tokens: sub-tokens that may wait. An empty queue admits a request of any size.
        overtaking: gives, for a size class, how many sub-tokens may arrive after a row and run before it.
    """

    def __init__(
        self, queue: Queue[Any], rate: Rate, max_queue_tokens: int, overtaking: Callable[[int], int]
    ):
        self._queue = queue
        self._rate = rate
        self._max_queue_tokens = max_queue_tokens
        self._overtaking = overtaking
        self._coming: Counter[int] = Counter()  # `coming`, by size class
        self.coming = 0
        """Counts the sub-tokens that were admitted and are not queued yet."""

    def admit(self, tokens: int, seconds_left: float) -> None:
        """Reserve room for a request of about `tokens` sub-tokens; `queued` ends the reservation.

        Args:
            seconds_left: seconds until its deadline; infinity if it has none.

        Raises:
            Busy: the queue has no room, or the request would probably miss its deadline. After
                `retry_after` seconds there is room, if the rate stays as it is and no other request comes.
        """
        waiting = self._queue.tokens + self.coming
        if waiting:
            self._refuse(tokens, waiting, seconds_left)
        self._coming[size_class_of(tokens)] += tokens
        self.coming += tokens

    def queued(self, size_class: int, tokens: int) -> None:
        """Note that `tokens` admitted sub-tokens are queued now, or will never be queued."""
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
        """Return how many sub-tokens must run before a request may join, if `left` run by its deadline."""
        # In the worst case, as many sub-tokens overtake its last row as are allowed to.
        overtaking = self._overtaking(size_class_of(tokens))
        allowed = int(max(_MARGIN * left - overtaking, _MARGIN * left / 2))
        over = self._queue.before(tokens, self._coming) + tokens - allowed
        if over <= 0:
            return 0
        if self._queue.before(tokens, self._coming, over) + tokens <= allowed:
            return over
        return waiting  # it is too large for its deadline, but an empty queue admits any request
