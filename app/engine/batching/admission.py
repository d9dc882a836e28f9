"""Admission decides which requests may join the queue, and when a refused caller should come again.

*Time.* A request that is admitted and then misses its deadline has wasted time of the machine. With many
of them a server works at full speed and answers none in time. So a request is admitted only if it is
expected to be done well before its deadline. This costs no speed, since a short queue keeps the machine as
busy as a long one.

*Room.* Each size class has its own part of the queue's room, so that no request, and no number of large
ones, takes the room of others. The first request of a size class needs no room, only time.

The module uses no thread and no clock.
"""

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any

from app.engine.batching.queue import Queue
from app.engine.batching.rate import Rate
from app.engine.batching.size_classes import CLASSES, size_class_of
from app.errors import Busy, TooMuch

_MARGIN = 0.5
"""A request may be expected to take at most this part of the time until its deadline, if others of its size
class wait. So the machine can suddenly become half as fast, and admitted requests are still in time."""

_SURELY = 0.75
"""A request surely takes this part of the time that the highest speed that was ever measured gives it."""


class Admission:
    """Admits requests to a queue, or refuses them.

    Args:
        queue: the rows that wait.
        rate: how many seconds a sub-token takes now.
        max_queue_tokens: sub-tokens that may wait, divided equally among the size classes. An empty size
            class admits a request of any size that is expected to be done by its deadline.
        overtaking: gives, for a size class, how many sub-tokens may arrive after a row and run before it.
    """

    def __init__(
        self, queue: Queue[Any], rate: Rate, max_queue_tokens: int, overtaking: Callable[[int], int]
    ):
        self._queue = queue
        self._rate = rate
        self._max_queue_tokens = max_queue_tokens
        self._room = max(max_queue_tokens // CLASSES, 1)
        self._overtaking = overtaking
        self._coming: Counter[int] = Counter()  # `coming`, by size class
        self.coming = 0
        """Counts the sub-tokens that were admitted and are not queued yet."""

    def check_possible(self, tokens: int, seconds: float) -> None:
        """Check that a request can be done in time if nothing else runs.

        Args:
            tokens: the sub-tokens that it has at least.
            seconds: the seconds that it may take; one that is late already is not checked.

        Raises:
            TooMuch: it surely cannot.
        """
        least = tokens * self._rate.least
        if _SURELY * least > seconds > 0:
            raise TooMuch(
                f"{tokens} sub-tokens or more take about {least:.1f} s here, and this request may take "
                f"{seconds:.1f} s; send less at once, or use /ner/stream"
            )

    def admit(self, tokens: int, seconds_left: float) -> None:
        """Reserve room for a request of about `tokens` sub-tokens; `queued` ends the reservation.

        Args:
            seconds_left: seconds until its deadline; infinity if it has none.

        Raises:
            Busy: its size class has no room, or the request would probably miss its deadline. After
                `retry_after` seconds there is room, if the rate stays as it is and no other request comes.
        """
        number = size_class_of(tokens)
        waiting = self._queue.tokens + self.coming
        if waiting:
            self._refuse(tokens, number, waiting, seconds_left)
        self._coming[number] += tokens
        self.coming += tokens

    def queued(self, size_class: int, tokens: int) -> None:
        """Note that `tokens` admitted sub-tokens are queued now, or will never be queued."""
        self._coming[size_class] -= tokens
        self.coming -= tokens

    def _refuse(self, tokens: int, number: int, waiting: int, seconds_left: float) -> None:
        rate = self._rate.seconds_per_token
        alike = self._queue.tokens_of(number) + self._coming[number]
        over = min(alike + tokens - self._room, alike)
        full = min(self._queue.until(number, over), waiting) if over > 0 else 0
        late = 0
        if seconds_left != inf:
            late = self._too_late(tokens, waiting, seconds_left / rate, _MARGIN if alike else 1.0)
        if full > 0 and full >= late:
            raise Busy(
                f"{alike} sub-tokens of requests of this size wait already and {self._room} may "
                f"(NERVE_MAX_QUEUE_TOKENS / {CLASSES}); come again later",
                retry_after=full * rate,
            )
        if late > 0:
            raise Busy(
                f"{waiting} sub-tokens wait already, and an answer might take longer than the "
                f"{max(seconds_left, 0):.1f} s that it may; come again later, or allow more time",
                retry_after=late * rate,
                late=True,
            )

    def _too_late(self, tokens: int, waiting: int, left: float, margin: float) -> int:
        """Return how many sub-tokens must run before a request may join, if `left` run by its deadline and
        it may take the part `margin` of them."""
        # In the worst case, as many sub-tokens overtake its last row as are allowed to.
        overtaking = self._overtaking(size_class_of(tokens))
        allowed = int(max(margin * left - overtaking, margin * left / 2))
        over = self._queue.before(tokens, self._coming) + tokens - allowed
        if over <= 0:
            return 0
        if self._queue.before(tokens, self._coming, over) + tokens <= allowed:
            return over
        return waiting  # it is too large for its deadline, but an empty queue admits any request
