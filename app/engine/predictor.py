"""Predictor: one loaded model version, text in, entities out.

`submit` returns at once. A single short text is tokenized by its caller, everything else on a thread
of the pool; the scheduler's threads run batches and decode them, a batch at a time. Nothing of one text
touches another, so its entities do not depend on its batch-mates.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.backlog import Cost, Flow
from app.engine.decoding import Decoder, Floats, ScoredSpan
from app.engine.jobs import Job, Row, Text
from app.engine.memory import give_memory_back
from app.engine.priority import give_way
from app.engine.scheduler import BatchReport, Scheduler
from app.engine.session import Session
from app.engine.tokenizer import Tokenizer
from app.engine.tuning import make_batches, measure_cost
from app.engine.windows import cut_windows
from app.engine.words import Ints
from app.errors import DeadlineExceeded, InferenceFailed, NerveError, NotReady
from app.manifest import Feature, Manifest

T = TypeVar("T")

_CHARACTERS_PER_TOKEN = 4.0
"""What is thought of texts before any was seen."""

_SHORT = 1_000
"""Characters up to which a text is tokenized by its caller, in a fraction of a millisecond."""

_SLICE = 32
"""Texts of a request that are tokenized at a time."""

_CLOSED = "this model version is closed; send the request again"


@dataclass(frozen=True)
class Entity:
    """`text[start:end]` (code points) is a `label` with probability `score`.

    Attributes:
        agreement: of an ensemble, the share of the weight whose members found exactly this entity.
    """

    start: int
    end: int
    label: str
    score: float
    agreement: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The entities of one text, in order, and how many windows it took."""

    entities: tuple[Entity, ...]
    windows: int


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


class AnyPredictor(Protocol):
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


class Predictor:
    """A model version that is ready to run.

    Args:
        manifest: its contract.
        tokenizer: its tokenizer.
        session: what runs its network; handed over, dropped by `close`.
        runs: batches that run at a time, each on a thread of its own.
        lone: what runs a batch that has the machine to itself, if that is another session.
        max_queue_tokens, max_batch_tokens: see `Scheduler`.
        report: told of every batch.
        background: its threads give way to all others, and so does its session if it has but one.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        session: Session,
        runs: int = 1,
        lone: Session | None = None,
        max_queue_tokens: int = 1_000_000,
        max_batch_tokens: int = 8_192,
        report: Callable[[BatchReport], None] = _ignore,
        background: bool = False,
    ):
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._sessions: tuple[Session, ...] = (session, lone or session)
        self._decoder = Decoder(manifest.tags, manifest.scheme, manifest.temperature)
        name = f"{manifest.name}-{manifest.version}"
        begin = give_way if background else _nothing
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-text", initializer=begin)
        self._closing = False
        self._requests = 0
        self._characters_per_token = _CHARACTERS_PER_TOKEN
        self._lock = threading.Lock()
        self._scheduler: Scheduler[Row] = Scheduler(
            self, self._warm_up(), runs, max_queue_tokens, max_batch_tokens, report, f"{name}-run", begin
        )

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
        self._closing = True
        self._pool.shutdown()
        self._scheduler.close()
        self._sessions = ()
        give_memory_back()

    def _send(
        self, texts: Sequence[str], read: Callable[[Sequence[Text]], list[T]], deadline: float | None
    ) -> "Future[list[T]]":
        """What `read` makes of the texts once they have run. It is called on a runner's thread, some
        texts at a time."""
        result: Future[list[T]] = Future()
        tokens = self._expected(texts)
        job = Job(result, read, deadline, len(texts), tokens)
        with self._lock:
            self._requests += 1
        result.add_done_callback(partial(self._ended, job.flow))  # which must not hold the job
        try:
            self._scheduler.admit(tokens, None if deadline is None else deadline - time.monotonic())
        except NerveError as error:
            job.fail(error)
            return result
        if len(texts) == 1 and len(texts[0]) <= _SHORT:
            self._start(job, texts, 0)  # it takes less than handing it over
        else:
            try:
                self._pool.submit(self._start, job, texts, 0)
            except RuntimeError as error:  # the pool has ended, or can start no thread
                self._withdraw(job, tokens)
                job.fail(NotReady(_CLOSED) if self._closing else error)
        return result

    def _ended(self, flow: Flow, result: "Future[Any]") -> None:
        with self._lock:
            self._requests -= 1
        if result.cancelled() or result.exception():
            self._scheduler.cancel(flow)

    def _start(self, job: "Job[Any]", texts: Sequence[str], first: int) -> None:
        """Tokenize some of a job's texts, so that they can run meanwhile; others have their turn before
        the rest."""
        while True:
            some = texts[first : first + _SLICE]
            try:
                if job.abandoned:
                    job.fail(DeadlineExceeded("the request's deadline passed before its texts were read"))
                else:
                    self._queue(job, first, some)
            except NerveError as error:
                job.fail(error)
            except BaseException as error:  # a Rust panic is no Exception
                job.fail(InferenceFailed(f"the tokenizer failed: {error!r}"))
            first += _SLICE
            last = first >= len(texts) or job.result.done()
            self._withdraw(job, job.tokens if last else self._expected(some))
            if last:
                break
            try:
                self._pool.submit(self._start, job, texts, first)
                return
            except RuntimeError:  # the pool ends: what was begun is finished here
                pass
        if not texts:
            self._answer([job])

    def _withdraw(self, job: "Job[Any]", tokens: int) -> None:
        """Of what was admitted of a job, so much, or what is left, is queued or will never be."""
        part = min(job.admitted, tokens)
        job.admitted -= part
        self._scheduler.withdraw(job.tokens, part)

    def _expected(self, texts: Sequence[str]) -> int:
        """Sub-tokens that texts will have, special ones included, as others had."""
        return int(sum(map(len, texts)) / self._characters_per_token) + len(texts)

    def _queue(self, job: "Job[Any]", first: int, texts: Sequence[str]) -> None:
        """Queue the windows of some of a job's texts, whose numbers begin with `first`."""
        started = time.perf_counter()
        encoded = self.tokenizer.encode(texts)
        now = time.perf_counter()
        size = self.manifest.max_length - self.tokenizer.specials
        rows, blank = [], []
        for number, one in enumerate(encoded, first):
            text = Text(job, number, one)
            windows = cut_windows(len(one), size, self.manifest.stride) if len(one.heads) else []
            text.windows = text.left = len(windows)
            if not windows:
                blank.append(text)
            for window in windows:
                length = window.end - window.start + self.tokenizer.specials
                rows.append(Row(text, window, length, now, 0.0))
        for row in rows:
            row.tokenize_seconds = (now - started) / len(rows)
        self._read(blank)
        if rows:
            self._measure(sum(map(len, texts)), sum(row.length for row in rows))
            self._scheduler.submit(job.flow, rows)

    def _measure(self, characters: int, tokens: int) -> None:
        """How many characters a sub-token has, among recent texts."""
        share = min(1.0, tokens / 10_000)
        self._characters_per_token += share * (max(characters, 1) / tokens - self._characters_per_token)

    def run(self, rows: Sequence[Row], alone: bool) -> None:
        """Run a batch and keep its logits; see `Work`."""
        if not self._sessions:
            raise NotReady(_CLOSED)
        session = self._sessions[alone]
        logits = session.run(self._batch(rows, session))
        prefix = len(self.tokenizer.prefix)
        for index, row in enumerate(rows):
            text, window, heads = row.text, row.window, row.text.encoded.heads
            if text.windows == 1:
                text.logits = logits[index, heads + prefix]
                continue
            with self._lock:
                if text.logits is None:
                    text.logits = np.zeros((len(heads), logits.shape[2]), np.float32)
            low, high = np.searchsorted(heads, (window.keep_from, window.keep_to))
            text.logits[low:high] = logits[index, heads[low:high] + (prefix - window.start)]

    def finish(self, rows: Sequence[Row], error: NerveError | None) -> None:
        """Read the texts that are whole now, and answer the requests that are; see `Work`."""
        if error:
            for row in rows:
                row.text.job.fail(error)
            return
        whole = []
        with self._lock:
            for row in rows:
                row.text.left -= 1
                if not row.text.left:
                    whole.append(row.text)
        self._read(whole)

    def _read(self, texts: Sequence[Text]) -> None:
        """Make the answers of texts whose logits are there, and give them to whom they complete."""
        by_read: dict[Any, list[Text]] = {}
        for text in texts:
            if not text.job.result.done():
                by_read.setdefault(text.job.read, []).append(text)
        for read, alike in by_read.items():
            try:
                answers = read(alike)
            except Exception as error:
                for text in alike:
                    text.job.fail(error)
                continue
            complete = []
            with self._lock:
                for text, answer in zip(alike, answers, strict=True):
                    text.job.answers[text.number] = answer
                    text.job.left -= 1
                    if not text.job.left:
                        complete.append(text.job)
            self._answer(complete)

    @staticmethod
    def _answer(jobs: "Sequence[Job[Any]]") -> None:
        for job in jobs:
            with suppress(InvalidStateError):  # nobody waits any more
                job.result.set_result(job.answers)

    def _batch(self, rows: Sequence[Row], session: Session) -> dict[str, npt.NDArray[np.int64]]:
        shape = session.shape(len(rows), max(row.length for row in rows))
        features: dict[Feature, npt.NDArray[np.int64]] = {}
        for feature in self.manifest.inputs.values():
            fill = self.tokenizer.pad_id if feature == "ids" else 0
            features[feature] = np.full(shape, fill, np.int64)
        ids, mask, shapes = (features.get(feature) for feature in ("ids", "mask", "word_shape"))
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        at = len(prefix)
        for index, row in enumerate(rows):
            text, window = row.text.encoded, row.window
            end = row.length - len(suffix)
            if ids is not None:
                ids[index, :at] = prefix
                ids[index, at:end] = text.ids[window.start : window.end]
                ids[index, end : row.length] = suffix
            if shapes is not None:
                shapes[index, at:end] = text.shapes[window.start : window.end]
            if mask is not None:
                mask[index, : row.length] = 1
        if mask is not None:
            mask[len(rows) :, 0] = 1  # attention to nothing is not a number
        return {name: features[feature] for name, feature in self.manifest.inputs.items()}

    def _logits_of(self, text: Text) -> npt.NDArray[np.float32]:
        if text.logits is None:  # nothing of it ran
            return np.zeros((len(text.encoded.heads), len(self.manifest.tags)), np.float32)
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
        make_batch = make_batches(self.manifest, self.tokenizer.pad_id)
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
