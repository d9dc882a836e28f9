"""Solitude: detects that requests come one at a time and may run on the event loop itself.

The event loop is blocked while it runs a network. With a single caller that delays no other request, and it
saves waking other threads. As soon as two requests overlap, all go to the runners' threads.
"""

import asyncio
from types import TracebackType

_ENOUGH = 8
"""Requests in a row without overlap before one may run on the loop; fewer could be chance."""

_TURNS = 3
"""Turns of the loop after the network's run in which an arriving request counts as one that had to wait:
the caller's next request, sent after the answer, arrives later than that."""


class Solitude:
    """Counts the present requests of one event loop: put `with solitude:` around each."""

    def __init__(self) -> None:
        self._present = 0
        self._alone_in_a_row = 0
        self._held = False  # the loop ran a network, and requests may still wait for it

    def __enter__(self) -> None:
        self._present += 1
        alone = self._present == 1 and not self._held
        self._alone_in_a_row = self._alone_in_a_row + 1 if alone else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._present -= 1

    def may_hold(self) -> bool:
        """Say whether the current request may block the loop; True marks the loop as blocked."""
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
