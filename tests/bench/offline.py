"""The limit: a model version without a server, all texts known beforehand.

The texts are tokenized, their windows sorted by length, split into the batches that cost least, run on as
many threads as pays, and decoded. It uses the parts of the service and none of its paths between them, so
that what queues, threads and HTTP cost shows as a share of it.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from statistics import median

import numpy as np
import numpy.typing as npt

from app.engine.batching.collation import collate
from app.engine.batching.samples import sample_batches
from app.engine.decoding.spans import Decoder, ScoredSpan
from app.engine.runtimes.runtime import Contract, Session
from app.engine.runtimes.table import choose_runtime
from app.engine.runtimes.tuning import measure_cost
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.windows import Window, cut_windows, stitch
from app.engine.text.words import Ints
from app.machine import available_cpus
from app.manifest import Feature, read_manifest
from app.versions.loading.variants import choose_variant
from tests.bench.report import Options
from tests.bench.split import best_split

_TOGETHER = 64
"""Texts that a thread tokenizes at a time."""


@dataclass(frozen=True)
class Setting:
    """How a session is used.

    Attributes:
        threads: of the session.
        runs: batches at a time.
        batch_tokens: padded sub-tokens of a batch at most.
    """

    threads: int
    runs: int
    batch_tokens: int

    def __str__(self) -> str:
        return f"{self.threads} threads x {self.runs} runs, batches up to {self.batch_tokens} sub-tokens"


@dataclass(frozen=True)
class _Row:
    """One window of a text, and where its logits belong."""

    number: int
    text: EncodedText
    window: Window
    length: int

    @property
    def ids(self) -> Ints:
        return self.text.ids[self.window.start : self.window.end]

    @property
    def shapes(self) -> Ints:
        return self.text.shapes[self.window.start : self.window.end]


class Offline:
    """A version's parts, loaded into this process.

    Args:
        version: of the options' model.
        threads: that its sessions may have, a session for each.
    """

    def __init__(self, options: Options, version: int, threads: Sequence[int] = ()):
        folder = options.models / options.model / str(version)
        self.manifest = read_manifest(folder)
        runtime = choose_runtime("auto")
        self.variant = choose_variant(self.manifest, runtime)
        contract = Contract(frozenset(self.manifest.inputs), self.manifest.output, self.manifest.max_length)
        self.cpus = available_cpus()
        self.sessions = {
            count: runtime.open(folder / self.variant.file, contract, count)
            for count in threads or sorted({1, self.cpus})
        }
        self.provider = runtime.provider
        self._tokenizer = Tokenizer.from_file(folder / self.manifest.tokenizer, self.manifest.words)
        self._decoder = Decoder(self.manifest.tags, self.manifest.scheme, self.manifest.temperature)
        batches = sample_batches(self.manifest.inputs, self._tokenizer.frame, self.manifest.max_length)
        self.cost = {count: measure_cost(session, batches) for count, session in self.sessions.items()}

    def best_setting(self, texts: Sequence[str], passes: int = 2) -> Setting:
        """The fastest of one session of all processors, one of each with one thread, and more."""
        pairs = {(self.cpus, 1), (1, self.cpus), (self.cpus, 2)}
        settings = [
            Setting(threads, runs, tokens)
            for (threads, runs), tokens in product(sorted(pairs), (256, 1_024, 4_096))
            if threads in self.sessions
        ]
        rates: dict[Setting, list[float]] = {setting: [] for setting in settings}
        for _ in range(passes):
            for setting in settings:
                rates[setting].append(self.rate(texts, setting))
        return max(settings, key=lambda setting: median(rates[setting]))

    def rate(self, texts: Sequence[str], setting: Setting, seconds: float = 0.0) -> float:
        """Texts a second, the median of as many passes as fit, at least one."""
        rates: list[float] = []
        started = time.perf_counter()
        while not rates or time.perf_counter() - started < seconds:
            begun = time.perf_counter()
            self.annotate(texts, setting)
            rates.append(len(texts) / (time.perf_counter() - begun))
        return median(rates)

    def annotate(self, texts: Sequence[str], setting: Setting) -> list[list[ScoredSpan]]:
        """The spans of each text, in decisions."""
        with ThreadPoolExecutor(setting.runs) as pool:
            parts = [texts[at : at + _TOGETHER] for at in range(0, len(texts), _TOGETHER)]
            encoded = [text for part in pool.map(self._tokenizer.encode, parts) for text in part]
            rows = sorted(self._rows(encoded), key=lambda row: row.length)
            logits: list[npt.NDArray[np.float32] | None] = [None] * len(encoded)
            left = [0] * len(encoded)
            for row in rows:
                left[row.number] += 1
            spans: list[list[ScoredSpan]] = [[] for _ in encoded]
            ends, _ = best_split(
                [row.length for row in rows], self.cost[setting.threads], setting.batch_tokens
            )
            starts = [0, *ends[:-1]]
            # Long batches first, so that no thread is left with one when the others have ended.
            batches = [rows[start:end] for start, end in zip(starts, ends, strict=True)][::-1]
            session, lock = self.sessions[setting.threads], threading.Lock()

            def run(batch: Sequence[_Row]) -> None:
                given = session.run(self._batch(batch))
                prefix = len(self._tokenizer.frame.prefix)
                with lock:
                    for row, values in zip(batch, given, strict=True):
                        logits[row.number] = stitch(
                            logits[row.number], row.window, row.text.firsts, values, prefix
                        )
                    for row in batch:
                        left[row.number] -= 1
                    whole = [number for number in {row.number for row in batch} if not left[number]]
                read = [one for number in whole if (one := logits[number]) is not None]
                for number, found in zip(whole, self._decoder.decode_all(read), strict=True):
                    spans[number] = found

            list(pool.map(run, batches))
        return spans

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Sub-tokens of each window of each text."""
        return [row.length for row in self._rows(self._tokenizer.encode(texts))]

    def batch_of(self, text: str) -> dict[str, npt.NDArray[np.int64]]:
        """What a network is fed for a text that fits one window."""
        (row,) = self._rows(self._tokenizer.encode([text]))
        return self._batch([row])

    def run_seconds(self, rows: int, length: int, times: int = 7) -> dict[int, float]:
        """Median seconds of a batch of a shape, by the session's threads."""
        return {
            count: median(self._time(session, rows, length) for _ in range(times))
            for count, session in self.sessions.items()
        }

    def _rows(self, texts: Sequence[EncodedText]) -> Iterator[_Row]:
        specials = self._tokenizer.frame.count
        for number, text in enumerate(texts):
            if len(text.firsts):
                for window in cut_windows(
                    len(text), self.manifest.max_length - specials, self.manifest.stride
                ):
                    yield _Row(number, text, window, window.end - window.start + specials)

    def _batch(self, rows: Sequence[_Row]) -> dict[str, Ints]:
        return collate(rows, self.manifest.inputs, self._tokenizer.frame)

    def _time(self, session: Session, rows: int, length: int) -> float:
        feature: dict[Feature, int] = {"ids": self._tokenizer.frame.pad_id, "mask": 1}
        batch = {
            name: np.full((rows, length), feature.get(kind, 0), np.int64)
            for name, kind in self.manifest.inputs.items()
        }
        started = time.perf_counter()
        session.run(batch)
        return time.perf_counter() - started
