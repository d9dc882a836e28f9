"""Network: one loaded model version, text in, entities out.

`submit` returns at once. Texts come in through the intake, the scheduler's threads run batches of their
windows, and decode a batch at a time what is whole. Nothing of one text touches another, so its entities do
not depend on its batch-mates.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.batching.collation import collate
from app.engine.batching.queue import Flow
from app.engine.batching.rows import Job, Row, Text, answer
from app.engine.batching.runner import BatchReport, Scheduler
from app.engine.batching.samples import sample_batches
from app.engine.decoding.entities import Entity, Prediction
from app.engine.decoding.spans import Decoder, Floats, ScoredSpan
from app.engine.intake import Intake
from app.engine.memory import give_memory_back
from app.engine.priority import give_way
from app.engine.runtimes.cost import Cost
from app.engine.runtimes.runtime import Running, Session
from app.engine.runtimes.tuning import measure_cost
from app.engine.text.tokenizer import Tokenizer
from app.engine.text.windows import stitch
from app.engine.text.words import Ints
from app.errors import InferenceFailed, NerveError, NotReady
from app.manifest import Manifest

T = TypeVar("T")

_CLOSED = "this model version is closed; send the request again"


@dataclass(frozen=True)
class Evidence:
    """What a model knows of one text: its answer, and what the answer was read from.

    Attributes:
        starts, ends: code points at which each decision's words start and end, shape (decisions,).
        posteriors: softmax of logits / temperature, shape (decisions, tags), columns as the manifest's
            tags.
    """

    prediction: Prediction
    starts: Ints
    ends: Ints
    posteriors: Floats


class Model(Protocol):
    """A loaded version as lifecycle, routes and evaluation use it, be it one model or an ensemble."""

    manifest: Manifest

    @property
    def alive(self) -> bool:
        """Whether requests can still be run."""
        ...

    @property
    def failing(self) -> bool:
        """Whether three batches in a row failed, of one network; it stays so."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs, so that the processor has time to spare."""
        ...

    @property
    def waiting_tokens(self) -> int:
        """Sub-tokens in its queues."""
        ...

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The entities of each text, in the texts' order."""
        ...

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """As `predict`, without waiting. Cancelling the future drops what has not run.

        Args:
            deadline: when nobody waits any more, on the clock of `time.monotonic()`.
        """
        ...

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Each text's logits before temperature, shape (decisions, tags)."""
        ...

    def close(self) -> None:
        """Finish what is queued, and give everything back."""
        ...


def _ignore(_: BatchReport) -> None:
    pass


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Limits:
    """How much a network takes on.

    Attributes:
        max_queue_tokens: sub-tokens that may wait; see `Admission`.
    """

    max_queue_tokens: int = 1_000_000


class Network:
    """A model version that is ready to run.

    Args:
        manifest: its contract.
        tokenizer: its tokenizer.
        running: what runs its network; handed over, dropped by `close`.
        limits: how much it takes on.
        report: told of every batch.
        background: its threads give way to all others, and so does its session if it has but one.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        running: Running,
        limits: Limits = Limits(),
        report: Callable[[BatchReport], None] = _ignore,
        background: bool = False,
    ):
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._sessions: tuple[Session, ...] = (running.session, running.single)
        self._decoder = Decoder(manifest.tags, manifest.scheme, manifest.temperature)
        name = f"{manifest.name}-{manifest.version}"
        begin = give_way if background else _nothing
        self._requests = 0
        self._lock = threading.Lock()
        self._scheduler: Scheduler[Row] = Scheduler(
            self,
            self._warm_up(),
            running.runs,
            limits.max_queue_tokens,
            running.max_batch_tokens,
            report,
            f"{name}-run",
            begin,
        )
        self._intake = Intake(manifest, tokenizer, self._scheduler, f"{name}-text", begin)

    @property
    def alive(self) -> bool:
        """Whether requests can still be run."""
        return self._scheduler.alive

    @property
    def failing(self) -> bool:
        """Whether three batches in a row failed; a batch that succeeds later does not undo it."""
        return self._scheduler.failing

    @property
    def idle(self) -> bool:
        """Whether no request is on its way, be it at its tokens, in the queue, in a batch or decoded."""
        return not self._requests and self._scheduler.idle

    @property
    def waiting_tokens(self) -> int:
        """Sub-tokens in the queue."""
        return self._scheduler.waiting_tokens

    @property
    def cost(self) -> Cost:
        """What a batch costs on this machine: measured at warm-up, refined since."""
        return self._scheduler.cost

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The entities of each text, in the texts' order.

        Raises:
            Busy, InferenceFailed, NotReady: see `app.errors`.
        """
        return self.submit(texts).result()

    def submit(self, texts: Sequence[str], deadline: float | None = None) -> "Future[list[Prediction]]":
        """As `predict`, without waiting. Cancelling the future drops what has not run.

        Args:
            deadline: when nobody waits any more, on the clock of `time.monotonic()`. A request that would
                hardly be answered by then fails with `Busy` at once, one that is not with
                `DeadlineExceeded` when its turn comes.
        """
        return self._send(texts, self._predictions, deadline)

    def submit_evidence(
        self, texts: Sequence[str], deadline: float | None = None
    ) -> "Future[list[Evidence]]":
        """As `submit`, with the posteriors that each answer was read from."""
        return self._send(texts, self._evidence, deadline)

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Each text's logits before temperature, shape (decisions, tags)."""
        return self._send(texts, lambda done: [self._logits_of(text) for text in done], None).result()

    def close(self) -> None:
        """Finish what is queued, end the threads, drop the sessions and give their memory back."""
        self._intake.close()
        self._scheduler.close()
        self._intake.drop()
        self._sessions = ()
        give_memory_back()

    def _send(
        self, texts: Sequence[str], read: Callable[[Sequence[Text]], list[T]], deadline: float | None
    ) -> "Future[list[T]]":
        """What `read` makes of the texts once they have run. It is called on a runner's thread, some
        texts at a time."""
        result: Future[list[T]] = Future()
        if not texts:
            result.set_result([])
            return result
        job = Job(result, read, deadline, len(texts), self._intake.expected(texts))
        with self._lock:
            self._requests += 1
        result.add_done_callback(partial(self._ended, job.flow))  # which must not hold the job
        self._intake.send(job, texts)
        return result

    def _ended(self, flow: Flow, result: "Future[Any]") -> None:
        with self._lock:
            self._requests -= 1
        if result.cancelled() or result.exception():
            self._scheduler.cancel(flow)

    def prepare(self) -> Sequence[tuple[Flow, Sequence[Row]]]:
        """What has come in; see `Work`."""
        return self._intake.prepare()

    def run(self, rows: Sequence[Row], alone: bool) -> None:
        """Run a batch and keep its logits; see `Work`."""
        if not self._sessions:
            raise NotReady(_CLOSED)
        session = self._sessions[alone]
        shape = session.shape(len(rows), max(row.length for row in rows))
        logits = session.run(collate(rows, self.manifest.inputs, self.tokenizer.frame, shape))
        prefix = len(self.tokenizer.frame.prefix)
        for row, values in zip(rows, logits, strict=False):  # a runtime may have added rows
            text, firsts = row.text, row.text.encoded.firsts
            if text.windows == 1:
                text.logits = stitch(None, row.window, firsts, values, prefix)
                continue
            with text.job.lock:
                text.logits = stitch(text.logits, row.window, firsts, values, prefix)

    def finish(self, rows: Sequence[Row], error: NerveError | None) -> None:
        """Read the texts that are whole now, and answer the requests that are; see `Work`."""
        if error:
            for row in rows:
                row.text.job.fail(error)
            return
        answer([row.text for row in rows if row.text.ran()])

    def _logits_of(self, text: Text) -> npt.NDArray[np.float32]:
        if text.logits is None:  # nothing of it ran
            return np.zeros((len(text.encoded.firsts), len(self.manifest.tags)), np.float32)
        return text.logits

    def _predictions(self, texts: Sequence[Text]) -> list[Prediction]:
        found = self._decoder.decode_all([self._logits_of(text) for text in texts])
        return [
            Prediction(
                kept_entities(spans, self.manifest.thresholds, text.encoded.starts, text.encoded.ends),
                text.windows,
            )
            for text, spans in zip(texts, found, strict=True)
        ]

    def _evidence(self, texts: Sequence[Text]) -> list[Evidence]:
        return [
            Evidence(
                prediction,
                text.encoded.starts,
                text.encoded.ends,
                self._decoder.probabilities(self._logits_of(text)),
            )
            for text, prediction in zip(texts, self._predictions(texts), strict=True)
        ]

    def _warm_up(self) -> Cost:
        """Run the network, and find out what a batch costs.

        Raises:
            InferenceFailed: it does not run, or gives something else than its logits.
        """
        make_batch = sample_batches(self.manifest.inputs, self.tokenizer.frame, self.manifest.max_length)
        batch = make_batch(2, 16)
        shape = (*next(iter(batch.values())).shape, len(self.manifest.tags))
        for session in self._sessions:
            if (found := session.run(batch).shape) != shape:
                raise InferenceFailed(
                    f"the logits of {shape[0]} rows of {shape[1]} sub-tokens have the shape {found}, and "
                    f"there are {shape[2]} tags"
                )
        return measure_cost(self._sessions[0], make_batch)


def kept_entities(
    spans: Iterable[ScoredSpan], thresholds: Mapping[str, float], starts: Ints, ends: Ints
) -> tuple[Entity, ...]:
    """The entities of one text that reach their label's threshold.

    Args:
        spans: of its decisions.
        starts, ends: code points of each decision, shape (decisions,).
    """
    return tuple(
        Entity(int(starts[first]), int(ends[last]), label, score)
        for first, last, label, score in spans
        if score >= thresholds.get(label, 0.0)
    )


def settle(result: "Future[T]", compute: Callable[[], T]) -> None:
    """Give a future its value or error, unless nobody waits any more."""
    with suppress(InvalidStateError):
        try:
            value = compute()
        except Exception as error:
            result.set_exception(error)
        else:
            result.set_result(value)
