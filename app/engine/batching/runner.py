"""Runners are threads that each take one batch at a time from the queue to the answer.

A runner reads the unread texts, takes a batch, collates and runs it, scatters its logits, decodes them,
answers the requests and reports the batch. It gives no callback to anything that it calls.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from app.engine.batching.batches import Part
from app.engine.batching.dispatcher import CLOSED, Dispatcher
from app.engine.batching.execution import Execution
from app.engine.batching.reading import read_parts
from app.engine.batching.requests import Request
from app.engine.text.reader import Reader
from app.errors import DeadlineExceeded, NotReady

log = logging.getLogger("nerve.engine")

_CLOSING_POLL = 0.2
"""Seconds between two looks whether the session that a closing runner waits for hangs."""


class Runners:
    """Starts the runners of one network, and ends them at `close`.

    Args:
        count: the number of threads, and so of batches that run at a time.
        name: the start of the threads' names.
        begin: called once on each thread, before anything else.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        reader: Reader,
        execution: Execution,
        count: int,
        name: str,
        begin: Callable[[], None],
    ):
        self._dispatcher = dispatcher
        self._reader = reader
        self._execution = execution
        self._begin = begin
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Run what waits, then end the threads; fail the requests that remain if threads died.

        A thread whose session hangs is left behind, with its session and its memory.
        """
        self._dispatcher.close()
        for thread in self._threads:
            while thread.is_alive() and not self._dispatcher.hung:
                thread.join(_CLOSING_POLL)
            thread.join(_CLOSING_POLL)
            if thread.is_alive():
                log.error(
                    "%s: closed, and its thread is left behind because its session hangs", thread.name
                )
        for request in self._dispatcher.left_over():
            request.fail(NotReady(CLOSED))

    def run_here(self, request: Request[Any], texts: Sequence[str]) -> bool:
        """Answer a request on the calling thread, unless another is on its way; return whether it did."""
        if not self._dispatcher.take_over():
            return False
        try:
            ((_, rows),) = read_parts(self._reader, [Part(request, 0, texts, 0)])
            for row in rows:
                self._dispatcher.start()
                self._execution.execute([row], single=True, held=True)
        finally:
            self._dispatcher.hand_back()
        return True

    def _run(self, number: int) -> None:
        try:
            self._begin()
            while self._turn(number):
                pass  # a runner that sleeps holds nothing of its last batch
        finally:
            self._dispatcher.ended()

    def _turn(self, number: int) -> bool:
        """Wait for work and do some; return False when there will be no more."""
        unread = self._dispatcher.wait(number)
        if unread is None:
            return False
        batch = self._dispatcher.next_batch(read_parts(self._reader, unread) if unread else ())
        for row in batch.late:
            row.text.request.fail(DeadlineExceeded("the request's deadline passed while it waited"))
        if batch.rows:
            self._execution.execute(batch.rows, batch.single)
        return True
