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

from app.engine.batching.samples import sample_batches
from app.engine.decoding.spans import Decoder, ScoredSpan
from app.engine.runtimes.runtime import Contract, Session
from app.engine.runtimes.table import choose_runtime
from app.engine.runtimes.tuning import measure_cost
from app.engine.text.tokenizer import EncodedText, Tokenizer
from app.engine.text.windows import Window, cut_windows
from app.machine import available_cpus
from app.manifest import Feature, read_manifest
from app.versions.loading.variants import choose_variant
from tests.bench.report import Options
from tests.bench.split import best_split

_CHUNK = 64
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
        self._decode_all = getattr(self._decoder, "decode_all", None)
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
            chunks = [texts[at : at + _CHUNK] for at in range(0, len(texts), _CHUNK)]
            encoded = [text for chunk in pool.map(self._tokenizer.encode, chunks) for text in chunk]
            rows = sorted(self._rows(encoded), key=lambda row: row.length)
            logits = [np.zeros((len(text.firsts), len(self.manifest.tags)), np.float32) for text in encoded]
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
                for index, row in enumerate(batch):
                    window, heads = row.window, row.text.firsts
                    low, high = np.searchsorted(heads, (window.keep_from, window.keep_to))
                    at = heads[low:high] + (len(self._tokenizer.prefix) - window.start)
                    logits[row.number][low:high] = given[index, at]
                with lock:
                    for row in batch:
                        left[row.number] -= 1
                    whole = [number for number in {row.number for row in batch} if not left[number]]
                for number, found in zip(
                    whole, self._decode([logits[number] for number in whole]), strict=True
                ):
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

    def _decode(self, logits: Sequence[npt.NDArray[np.float32]]) -> list[list[ScoredSpan]]:
        if self._decode_all:
            found: list[list[ScoredSpan]] = self._decode_all(logits)
            return found
        return [self._decoder.decode(one) for one in logits]

    def _rows(self, texts: Sequence[EncodedText]) -> Iterator[_Row]:
        specials = self._tokenizer.specials
        for number, text in enumerate(texts):
            if len(text.firsts):
                for window in cut_windows(
                    len(text), self.manifest.max_length - specials, self.manifest.stride
                ):
                    yield _Row(number, text, window, window.end - window.start + specials)

    def _batch(self, rows: Sequence[_Row]) -> dict[str, npt.NDArray[np.int64]]:
        shape = (len(rows), max(row.length for row in rows))
        features: dict[Feature, npt.NDArray[np.int64]] = {
            "ids": np.full(shape, self._tokenizer.pad_id, np.int64),
            "mask": np.zeros(shape, np.int64),
            "word_shape": np.zeros(shape, np.int64),
            "zeros": np.zeros(shape, np.int64),
        }
        prefix, suffix = self._tokenizer.prefix, self._tokenizer.suffix
        for index, row in enumerate(rows):
            end = row.length - len(suffix)
            ids = features["ids"][index]
            ids[: len(prefix)] = prefix
            ids[len(prefix) : end] = row.text.ids[row.window.start : row.window.end]
            ids[end : row.length] = suffix
            shapes = row.text.shapes[row.window.start : row.window.end]
            features["word_shape"][index, len(prefix) : end] = shapes
            features["mask"][index, : row.length] = 1
        return {name: features[feature] for name, feature in self.manifest.inputs.items()}

    def _time(self, session: Session, rows: int, length: int) -> float:
        feature: dict[Feature, int] = {"ids": self._tokenizer.pad_id, "mask": 1}
        batch = {
            name: np.full((rows, length), feature.get(kind, 0), np.int64)
            for name, kind in self.manifest.inputs.items()
        }
        started = time.perf_counter()
        session.run(batch)
        return time.perf_counter() - started
