"""Runners: the threads that own a batch each, from the queue to the answer.

A runner takes what waits, reads the texts that are unread, chooses a batch, collates and runs it, scatters
its logits, decodes them, answers the requests and reports the batch. Nothing that it calls calls it back.
"""

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


class Runners:
    """The runners of one network, which run until `close`.

    Args:
        count: of threads, and so of batches at a time.
        name: of the threads.
        begin: called first on each thread.
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
        """Run what waits, then end the threads; what none of them is left to run fails."""
        self._dispatcher.close()
        for thread in self._threads:
            thread.join()
        for request in self._dispatcher.left_over():
            request.fail(NotReady(CLOSED))

    def run_here(self, request: Request[Any], texts: Sequence[str]) -> bool:
        """Answer a request on the caller's thread, if nothing else is on its way; whether that was so."""
        if not self._dispatcher.take_over():
            return False
        try:
            ((_, rows),) = read_parts(self._reader, [Part(request, 0, texts, 0)])
            for row in rows:
                self._dispatcher.start()
                self._execution.execute([row], single=True)
        finally:
            self._dispatcher.hand_back()
        return True

    def _run(self, number: int) -> None:
        try:
            self._begin()
            while (unread := self._dispatcher.wait(number)) is not None:
                batch = self._dispatcher.next_batch(read_parts(self._reader, unread) if unread else ())
                for row in batch.late:
                    late = DeadlineExceeded("the request's deadline passed while it waited")
                    row.text.request.fail(late)
                if batch.rows:
                    self._execution.execute(batch.rows, batch.single)
        finally:
            self._dispatcher.ended()
