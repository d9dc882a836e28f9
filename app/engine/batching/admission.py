"""Admission: who may join the backlog, and when to come again who may not. It knows no thread and no clock.

A request that is taken and then not done in time has cost the machine what others could have had: with
many of them a server works at full speed and answers nobody. So one is taken only if it will be done by its
deadline with room to spare. That costs nothing: the queue has to be never empty, it need not be long.
"""

from collections import Counter
from typing import Any

from app.engine.batching.cost import Pace
from app.engine.batching.queue import Queue, lane_of
from app.errors import Busy

_MARGIN = 0.5
"""Part of the time until its deadline that a request may be expected to take; the rest is for surprises. So
the machine may become half as fast at once, and nobody who was taken is late."""


class Admission:
    """The one door to a backlog.

    Args:
        backlog: what waits.
        pace: how fast that gets less.
        max_queue_tokens: sub-tokens that may wait. A request that comes to an empty queue is taken
            whatever its size.
    """

    def __init__(self, backlog: Queue[Any], pace: Pace, max_queue_tokens: int):
        self._backlog = backlog
        self._pace = pace
        self._max_queue_tokens = max_queue_tokens
        self._coming: Counter[int] = Counter()  # sub-tokens of each lane, queued once they are counted

    def admit(self, tokens: int, seconds_left: float | None, overtaking: int) -> None:
        """Make room for a request of some `tokens` sub-tokens, which will be queued or withdrawn.

        Args:
            seconds_left: until its deadline, if it has one.
            overtaking: sub-tokens that may come later and run before it.

        Raises:
            Busy: the queue has no room, or it would hardly be answered in time. Who comes again after
                `retry_after` finds room, if the machine goes on as it does and nobody else comes before.
        """
        waiting = self._backlog.tokens + self._coming.total()
        if waiting:
            self._refuse(tokens, waiting, seconds_left, overtaking)
        self._coming[lane_of(tokens)] += tokens

    def withdraw(self, tokens: int, part: int | None = None) -> None:
        """What was admitted, or a part of it, is queued now, or will never be."""
        self._coming[lane_of(tokens)] -= tokens if part is None else part

    def _refuse(self, tokens: int, waiting: int, seconds_left: float | None, overtaking: int) -> None:
        pace = self._pace.seconds_per_token
        full = min(waiting + tokens - self._max_queue_tokens, waiting)
        late = 0
        if seconds_left is not None:
            late = self._too_late(tokens, waiting, seconds_left / pace, overtaking)
        if full > 0 and full >= late:
            raise Busy(
                f"{waiting} sub-tokens wait already and {self._max_queue_tokens} may "
                "(NERVE_MAX_QUEUE_TOKENS); come again later",
                retry_after=full * pace,
            )
        if late > 0:
            raise Busy(
                f"{waiting} sub-tokens wait already, and an answer might take longer than the "
                f"{max(seconds_left or 0, 0):.1f} s that it may; come again later, or allow more time",
                retry_after=late * pace,
                late=True,
            )

    def _too_late(self, tokens: int, waiting: int, left: float, overtaking: int) -> int:
        """Sub-tokens that must run before a request may join, if it is to be done while `left` run."""
        # Before its last row runs others have overtaken it: as many as may, if so many come meanwhile.
        allowed = int(max(_MARGIN * left - overtaking, _MARGIN * left / 2))
        over = self._backlog.before(tokens, self._coming) + tokens - allowed
        if over <= 0:
            return 0
        if self._backlog.before(tokens, self._coming, over) + tokens <= allowed:
            return over
        return waiting  # it is too large for its time, but not for an empty queue
