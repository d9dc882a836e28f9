"""Solitude: whether requests come one at a time, so that one may be answered on the event loop itself.

The loop hears nobody while it runs a network. A caller who is alone loses nothing by that, and saves the
time in which two threads wake each other. As soon as two callers meet, requests go to the runners' threads.
"""

import asyncio
from types import TracebackType

_ENOUGH = 8
"""Requests that must have come alone, one after another, before one is answered on the loop."""

_TURNS = 3
"""Turns of the loop after an answer in which a request must have been waiting for the loop: whoever gets
the answer first and asks then comes later."""


class Solitude:
    """Counts the requests of one event loop: `with solitude:` around each."""

    def __init__(self) -> None:
        self._present = 0
        self._alone_in_a_row = 0
        self._held = False  # the loop ran a network, and whoever came meanwhile may be waiting still

    def __enter__(self) -> None:
        self._present += 1
        alone = self._present == 1 and not self._held
        self._alone_in_a_row = self._alone_in_a_row + 1 if alone else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._present -= 1

    def may_hold(self) -> bool:
        """Whether the request at hand may hold the loop for a moment, which it then does."""
        if self._alone_in_a_row <= _ENOUGH or self._held:
            return False
        self._held = True
        asyncio.get_running_loop().call_soon(self._turn, _TURNS)
        return True

    def _turn(self, left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(self._turn, left - 1)
        else:
            self._held = False
