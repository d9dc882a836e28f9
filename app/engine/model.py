"""Model is a loaded model version: it takes texts and returns entities.

`Network` connects the rooms of the engine: text → rows (`text`), rows → logits (`batching`, `runtimes`),
logits → entities (`decoding`). `submit` returns at once, and runners take what waits through the network.
A text's entities do not depend on the other texts of its batch.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.batching.collation import collate
from app.engine.batching.dispatcher import Dispatcher
from app.engine.batching.execution import Execution
from app.engine.batching.reading import ReadingThread
from app.engine.batching.report import Report, ignore
from app.engine.batching.requests import Request, Row, Text
from app.engine.batching.runner import Runners
from app.engine.batching.samples import sample_batches
from app.engine.batching.watchdog import PATIENCE, Watchdog
from app.engine.decoding.answers import Answers
from app.engine.decoding.entities import Evidence, Prediction
from app.engine.decoding.spans import Decoder
from app.engine.memory import Tidying, give_memory_back
from app.engine.priority import give_way
from app.engine.runtimes.cost import Cost
from app.engine.runtimes.runtime import Running
from app.engine.runtimes.tuning import measure_cost
from app.engine.text.reader import Reader
from app.engine.text.tokenizer import Tokenizer
from app.errors import InferenceFailed, NerveError
from app.manifest import Manifest

T = TypeVar("T")

_SHORT = 1_000
"""A request's only text of up to this many characters is read by the runner; that takes well below 1 ms."""


_LARGE = 2
"""Requests of this size class and larger ones are read on a thread of their own. A tokenizer may take
seconds for one text of theirs, which others must not wait for."""


class Model(Protocol):
    """Annotates texts with a loaded version, which is one network or an ensemble."""

    manifest: Manifest

    @property
    def alive(self) -> bool:
        """Say whether requests can still be run."""
        ...

    @property
    def failing(self) -> bool:
        """Say whether three batches of one network in a row failed, or it hangs; this then stays true."""
        ...

    @property
    def hung(self) -> bool:
        """Say whether a session hangs, so that nothing is run any more; once true, this stays true."""
        ...

    @property
    def idle(self) -> bool:
        """Say whether nothing waits and nothing runs."""
        ...

    @property
    def waiting_tokens(self) -> int:
        """Count the sub-tokens in its queues."""
        ...

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the entities of each text, in the texts' order."""
        ...

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """Do as `predict` without waiting. Cancelling the future drops what has not run.

        Args:
            deadline: when the answer becomes useless, on the clock of `time.monotonic()`.
        """
        ...

    def answer_now(self, texts: Sequence[str]) -> list[Prediction] | None:
        """Do as `predict` on the calling thread, if that is fastest; else return None and do nothing."""
        ...

    def submit_evidence(
        self, texts: Sequence[str], deadline: float | None = None
    ) -> "Future[list[Evidence]]":
        """Do as `submit`, and return the posteriors with each answer."""
        ...

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Return each text's logits before temperature, shape (decisions, tags)."""
        ...

    def close(self) -> None:
        """Finish what is queued, and free threads, sessions and memory."""
        ...


@dataclass(frozen=True)
class Limits:
    """Limits the work that a network accepts.

    Attributes:
        max_queue_tokens: sub-tokens that may wait; see `Admission`.
        batch_seconds: the seconds that a batch may take; see `Watchdog`.
    """

    max_queue_tokens: int = 1_000_000
    batch_seconds: float = PATIENCE


def _nothing() -> None:
    """Leave a thread's priority as it is."""


class Network:
    """Runs a model version of one network.

    Args:
        running: the sessions of the network, which `close` drops.
        limits: limits of its queue.
        report: called for every batch.
        background: its threads give way to all others, and so does a session of one thread.

    Raises:
        InferenceFailed: the network does not run, or its output does not have the shape of its logits.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        running: Running,
        limits: Limits = Limits(),
        report: Report = ignore,
        background: bool = False,
    ):
        self.manifest = manifest
        self.tokenizer = tokenizer
        cost = _warm_up(manifest, tokenizer, running)
        decoder = Decoder(manifest.tags, manifest.scheme, manifest.temperature)
        self._answers = Answers(decoder, manifest.thresholds)
        self._reader = Reader(tokenizer, manifest.max_length, manifest.stride)
        self._dispatcher = Dispatcher(cost, running.runs, limits.max_queue_tokens, running.max_batch_tokens)
        compute = partial(_compute, running, manifest, tokenizer)
        prefix = len(tokenizer.frame.prefix)
        name = f"{manifest.name}-{manifest.version}"
        stop = partial(_stop, running)
        watchdog = Watchdog(
            self._dispatcher, stop, limits.batch_seconds, f"{manifest.name}/{manifest.version}"
        )
        execution = Execution(compute, prefix, self._dispatcher, report, watchdog)
        begin = give_way if background else _nothing
        self._thread, self._slow_thread = (
            ReadingThread(self._reader, self._dispatcher, f"{name}-{kind}", begin)
            for kind in ("text", "texts")
        )
        self._runners: Runners | None = Runners(
            self._dispatcher, self._reader, execution, running.runs, f"{name}-run", begin
        )
        self._background = background
        dispatcher = self._dispatcher  # a function that held the network would be a cycle
        self._tidying = Tidying(lambda: dispatcher.idle)

    @property
    def alive(self) -> bool:
        """Say whether requests can still be run."""
        return self._dispatcher.alive

    @property
    def failing(self) -> bool:
        """Say whether three batches in a row failed, or it hangs; this stays true, whatever comes later."""
        return self._dispatcher.failing

    @property
    def hung(self) -> bool:
        """Say whether a session hangs, so that nothing is run any more; this stays true."""
        return self._dispatcher.hung

    @property
    def idle(self) -> bool:
        """Say whether no request is unread, in the queue, in a batch or being decoded."""
        return self._dispatcher.idle

    @property
    def waiting_tokens(self) -> int:
        """Count the sub-tokens in the queue."""
        return self._dispatcher.waiting_tokens

    @property
    def cost(self) -> Cost:
        """Return the cost of a batch on this machine, measured at warm-up and refined since."""
        return self._dispatcher.cost

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the entities of each text, in the texts' order.

        Raises:
            Busy, InferenceFailed, NotReady: see `app.errors`.
        """
        return self.submit(texts).result()

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """Do as `predict` without waiting. Cancelling the future drops what has not run.

        Args:
            deadline: when the answer becomes useless, on the clock of `time.monotonic()`. A request that
                would probably be late fails with `Busy` at once; one that is late fails with
                `DeadlineExceeded` when its turn comes.
        """
        return self._send(texts, self._answers.predictions, deadline)

    def answer_now(self, texts: Sequence[str]) -> list[Prediction] | None:
        """Do as `predict` on the calling thread, so that no other thread has to be woken.

        Returns None, and does nothing, unless there is one short text, no other request is on its way, and
        the last run ended by itself. If this run does not end and cannot be stopped, the process is ended:
        see `Watchdog`.

        Raises:
            InferenceFailed: see `app.errors`.
        """
        runners = self._runners
        if runners is None or self._background or len(texts) != 1 or len(texts[0]) > _SHORT:
            return None
        request = self._request(texts, self._answers.predictions, None)
        return request.result.result() if runners.run_here(request, texts) else None

    def submit_evidence(
        self, texts: Sequence[str], deadline: float | None = None
    ) -> "Future[list[Evidence]]":
        """Do as `submit`, and return the posteriors with each answer."""
        return self._send(texts, self._answers.evidence, deadline)

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Return each text's logits before temperature, shape (decisions, tags)."""
        return self._send(texts, self._answers.logits, None).result()

    def close(self) -> None:
        """Finish what waits, end the threads, drop the sessions and return their memory to the system.

        Of a session that hangs, the thread and the memory are left behind.
        """
        self._thread.close()
        self._slow_thread.close()
        if self._runners:
            self._runners.close()
        self._runners = None
        self._tidying.close()
        give_memory_back()

    def _request(
        self,
        texts: Sequence[str],
        decode: Callable[[Sequence[Text]], list[T]],
        deadline: float | None,
    ) -> Request[T]:
        return Request(decode, deadline, len(texts), self._reader.expected(texts), self._dispatcher.cancel)

    def _send(
        self,
        texts: Sequence[str],
        decode: Callable[[Sequence[Text]], list[T]],
        deadline: float | None,
    ) -> "Future[list[T]]":
        """Return the future of what `decode` makes of the texts; runners call it with some at a time."""
        if not texts:
            nothing: Future[list[T]] = Future()
            nothing.set_result([])
            return nothing
        request = self._request(texts, decode, deadline)
        try:
            if len(texts) == 1 and len(texts[0]) <= _SHORT:
                self._dispatcher.send(request, texts)
            else:
                self._dispatcher.admit(request, 0 if deadline is None else self._reader.at_least(texts))
                if request.flow.size_class < _LARGE:
                    self._thread.send(request, texts)
                else:
                    self._slow_thread.send(request, texts)
                    tidying = self._tidying
                    request.result.add_done_callback(lambda _: tidying.later())
        except (NerveError, RuntimeError) as error:
            request.fail(error)
        return request.result


def _compute(
    running: Running, manifest: Manifest, tokenizer: Tokenizer, rows: Sequence[Row], single: bool
) -> npt.NDArray[np.float32]:
    """Return the logits of rows, shape (rows, length, tags), from the session that suits the batch."""
    session = running.single if single else running.session
    shape = session.shape(len(rows), max(row.length for row in rows))
    return session.run(collate(rows, manifest.inputs, tokenizer.frame, shape))


def _stop(running: Running, thread: int) -> None:
    """Tell the run of a thread to stop, whichever session it is of."""
    running.session.stop(thread)
    if running.single is not running.session:
        running.single.stop(thread)


def _warm_up(manifest: Manifest, tokenizer: Tokenizer, running: Running) -> Cost:
    """Run the network, and measure what a batch costs.

    Raises:
        InferenceFailed: it does not run, or its output does not have the shape of its logits.
    """
    make_batch = sample_batches(manifest.inputs, tokenizer.frame, manifest.max_length)
    batch = make_batch(2, 16)
    shape = (*next(iter(batch.values())).shape, len(manifest.tags))
    for session in (running.session, running.single):
        if (found := session.run(batch).shape) != shape:
            raise InferenceFailed(
                f"the logits of {shape[0]} rows of {shape[1]} sub-tokens have the shape {found}, and "
                f"there are {shape[2]} tags"
            )
    return measure_cost(running.session, make_batch)
