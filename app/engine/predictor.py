"""Predictor: one loaded model version, text in, entities out.

`submit` returns at once. A small pool tokenizes, the scheduler's thread runs batches, the pool
decodes; nothing of one text touches another, so its entities do not depend on its batch-mates.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.decoding import Decoder, Floats
from app.engine.memory import give_memory_back
from app.engine.priority import give_way
from app.engine.scheduler import BatchReport, Cost, Scheduler
from app.engine.session import Session
from app.engine.tokenizer import EncodedText, Tokenizer
from app.engine.windows import Window, cut_windows
from app.engine.words import Ints
from app.errors import InferenceFailed, NerveError, NotReady
from app.manifest import Feature, Manifest

T = TypeVar("T")

_PROBES = ((1, 16), (1, 64), (4, 32), (4, 64))
"""Rows and length of the batches that warm a session up and measure its cost."""

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

    def submit(self, texts: Sequence[str]) -> "Future[list[Prediction]]":
        """As `predict`, without waiting. Cancelling the future drops what has not run."""
        ...

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Each text's logits before temperature, shape (decisions, tags)."""
        ...

    def close(self) -> None:
        """Finish what is queued, and give everything back."""
        ...


class _Job:
    """The texts of one request on their way."""

    def __init__(self, texts: Sequence[EncodedText], tags: int, finish: Callable[["_Job"], None]):
        self.texts = texts
        self.logits = [np.zeros((len(text.heads), tags), np.float32) for text in texts]
        self.windows = [0] * len(texts)
        self.left = 0
        self.error: NerveError | None = None
        self.abandoned: Callable[[], bool] = lambda: False
        self._finish = finish
        self._lock = threading.Lock()

    def done(self, error: NerveError | None) -> None:
        """One window is done. The last one finishes the job."""
        with self._lock:
            self.left -= 1
            self.error = self.error or error
            last = self.left == 0
        if last:
            self._finish(self)


@dataclass(frozen=True)
class _Row:
    """One window of one text."""

    job: _Job
    text: int
    window: Window
    length: int

    @property
    def abandoned(self) -> bool:
        return self.job.abandoned()

    def done(self, error: NerveError | None) -> None:
        self.job.done(error)


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
        max_queue_tokens, max_batch_tokens: see `Scheduler`.
        report: told of every batch.
        background: its threads give way to all others, and so does its session if it has but one.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        session: Session,
        max_queue_tokens: int = 1_000_000,
        max_batch_tokens: int = 8_192,
        report: Callable[[BatchReport], None] = _ignore,
        background: bool = False,
    ):
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._session: Session | None = session
        self._decoder = Decoder(manifest.tags, manifest.scheme, manifest.temperature)
        name = f"{manifest.name}-{manifest.version}"
        begin = give_way if background else _nothing
        self._pool = ThreadPoolExecutor(2, thread_name_prefix=f"{name}-text", initializer=begin)
        self._requests = 0
        self._lock = threading.Lock()
        self._scheduler = Scheduler(
            self._run, self._warm_up(), max_queue_tokens, max_batch_tokens, report, f"{name}-run", begin
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
        """What a batch costs on this machine, measured at warm-up."""
        return self._scheduler.cost

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The entities of each text, in the texts' order.

        Raises:
            Busy, InferenceFailed, NotReady: see `app.errors`.
        """
        return self.submit(texts).result()

    def submit(self, texts: Sequence[str]) -> "Future[list[Prediction]]":
        """As `predict`, without waiting. Cancelling the future drops what has not run."""
        return self._send(texts, lambda job: [self._decode(job, n) for n in range(len(texts))])

    def submit_evidence(self, texts: Sequence[str]) -> "Future[list[Evidence]]":
        """As `submit`, with the posteriors that each answer was read from."""
        return self._send(texts, lambda job: [self._evidence(job, n) for n in range(len(texts))])

    def logits(self, texts: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """Each text's logits before temperature, shape (decisions, tags)."""
        result: Future[list[npt.NDArray[np.float32]]] = Future()

        def finish(job: _Job) -> None:
            settle(result, lambda: self._checked(job).logits)

        self._start(texts, finish, result)
        return result.result()

    def close(self) -> None:
        """Finish what is queued, end the threads, drop the session and give its memory back."""
        self._scheduler.close()
        self._pool.shutdown()
        self._session = None
        give_memory_back()

    def _send(self, texts: Sequence[str], read: Callable[[_Job], list[T]]) -> "Future[list[T]]":
        """What `read` makes of the texts once they have run; it is called on a thread of the pool."""
        result: Future[list[T]] = Future()

        def finish(job: _Job) -> None:
            if self._scheduler.is_current_thread:
                self._pool.submit(settle, result, lambda: read(self._checked(job)))
            else:
                settle(result, lambda: read(self._checked(job)))

        with self._lock:
            self._requests += 1
        result.add_done_callback(self._ended)
        try:
            self._pool.submit(self._start, texts, finish, result)
        except RuntimeError as error:  # the pool has ended, or can start no thread
            result.set_exception(error if self.alive else NotReady(_CLOSED))
        return result

    def _ended(self, _: "Future[list[T]]") -> None:
        with self._lock:
            self._requests -= 1

    def _start(
        self, texts: Sequence[str], finish: Callable[[_Job], None], result: "Future[list[T]]"
    ) -> None:
        try:
            job = _Job(self.tokenizer.encode(texts), len(self.manifest.tags), finish)
            job.abandoned = result.cancelled
            rows = [row for number in range(len(texts)) for row in self._rows(job, number)]
            job.left = len(rows)
            if not rows:
                finish(job)
            elif len(rows) > 1 or not self._scheduler.run_if_idle(rows[0]):
                self._scheduler.submit(rows)
        except Exception as error:
            with suppress(InvalidStateError):  # nobody waits any more
                result.set_exception(error)

    def _rows(self, job: _Job, number: int) -> list[_Row]:
        specials = self.tokenizer.specials
        text = job.texts[number]
        if not len(text.heads):
            return []
        size = self.manifest.max_length - specials
        windows = cut_windows(len(text), size, self.manifest.stride)
        job.windows[number] = len(windows)
        return [_Row(job, number, window, window.end - window.start + specials) for window in windows]

    def _run(self, rows: Sequence[_Row]) -> None:
        if self._session is None:
            raise NotReady(_CLOSED)
        logits = self._session.run(self._batch(rows))
        for index, row in enumerate(rows):
            text, window = row.job.texts[row.text], row.window
            low, high = np.searchsorted(text.heads, (window.keep_from, window.keep_to))
            at = text.heads[low:high] + (len(self.tokenizer.prefix) - window.start)
            row.job.logits[row.text][low:high] = logits[index, at]

    def _batch(self, rows: Sequence[_Row]) -> dict[str, npt.NDArray[np.int64]]:
        shape = (len(rows), max(row.length for row in rows))
        features: dict[Feature, npt.NDArray[np.int64]] = {
            "ids": np.full(shape, self.tokenizer.pad_id, np.int64),
            "mask": np.zeros(shape, np.int64),
            "word_shape": np.zeros(shape, np.int64),
            "zeros": np.zeros(shape, np.int64),
        }
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        for index, row in enumerate(rows):
            text, window = row.job.texts[row.text], row.window
            end = row.length - len(suffix)
            ids = features["ids"][index]
            ids[: len(prefix)] = prefix
            ids[len(prefix) : end] = text.ids[window.start : window.end]
            ids[end : row.length] = suffix
            features["word_shape"][index, len(prefix) : end] = text.shapes[window.start : window.end]
            features["mask"][index, : row.length] = 1
        return {name: features[feature] for name, feature in self.manifest.inputs.items()}

    def _decode(self, job: _Job, number: int) -> Prediction:
        text, logits = job.texts[number], job.logits[number]
        entities = read_entities(self._decoder, self.manifest.thresholds, logits, text.starts, text.ends)
        return Prediction(entities, job.windows[number])

    def _evidence(self, job: _Job, number: int) -> Evidence:
        text, posteriors = job.texts[number], self._decoder.probabilities(job.logits[number])
        return Evidence(self._decode(job, number), text.starts, text.ends, posteriors)

    @staticmethod
    def _checked(job: _Job) -> _Job:
        if job.error:
            raise job.error
        return job

    def _warm_up(self) -> Cost:
        """Run the probes and fit the cost to them, by least squares on the medians.

        Raises:
            InferenceFailed: the network does not run, or gives something else than its logits.
        """
        seconds = []
        probes = [(rows, min(length, self.manifest.max_length)) for rows, length in _PROBES]
        for shape in probes:
            feature: dict[Feature, int] = {"ids": self.tokenizer.pad_id, "mask": 1}
            batch = {
                name: np.full(shape, feature.get(kind, 0), np.int64)
                for name, kind in self.manifest.inputs.items()
            }
            runs = []
            for _ in range(3):
                started = time.perf_counter()
                assert self._session is not None
                logits = self._session.run(batch)
                runs.append(time.perf_counter() - started)
                if logits.shape != (*shape, len(self.manifest.tags)):
                    raise InferenceFailed(
                        f"the logits of {shape[0]} rows of {shape[1]} sub-tokens have the shape "
                        f"{logits.shape}, and there are {len(self.manifest.tags)} tags"
                    )
            seconds.append(median(runs[1:]))
        sizes = np.array([[1.0, rows * length] for rows, length in probes])
        fixed, per_token = np.linalg.lstsq(sizes, np.array(seconds), rcond=None)[0]
        return replace(Cost(), fixed=max(fixed, 1e-5), per_token=max(per_token, 1e-8))


def read_entities(
    decoder: Decoder,
    thresholds: Mapping[str, float],
    logits: npt.NDArray[np.floating],
    starts: Ints,
    ends: Ints,
) -> tuple[Entity, ...]:
    """The entities of one text that reach their label's threshold.

    Args:
        logits: shape (decisions, tags).
        starts, ends: code points of each decision, shape (decisions,).
    """
    found = (
        Entity(int(starts[first]), int(ends[last]), label, score)
        for first, last, label, score in decoder.decode(logits)
    )
    return tuple(entity for entity in found if entity.score >= thresholds.get(entity.label, 0.0))


def settle(result: "Future[T]", compute: Callable[[], T]) -> None:
    """Give a future its value or error, unless nobody waits any more."""
    with suppress(InvalidStateError):
        try:
            value = compute()
        except Exception as error:
            result.set_exception(error)
        else:
            result.set_result(value)
