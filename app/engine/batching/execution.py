"""Execution runs one batch, from its rows to the answers of its texts."""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from app.engine.batching.batches import Ran
from app.engine.batching.dispatcher import Dispatcher
from app.engine.batching.report import BatchReport, Report
from app.engine.batching.requests import Row, answer
from app.engine.batching.watchdog import Watchdog
from app.errors import InferenceFailed, NerveError

log = logging.getLogger("nerve.engine")

Compute = Callable[[Sequence[Row], bool], npt.NDArray[np.float32]]
"""Collates rows and runs the network on them. It takes the rows, and whether they have the whole machine,
and returns logits of shape (rows, length, tags)."""


class Execution:
    """Runs batches through a network. Several threads may do so at a time, each with different rows.

    Args:
        compute: collates rows and runs the network.
        prefix: the number of special tokens at the start of each row.
        dispatcher: its `ran` and `answered` are called for every batch.
        report: is called for every batch, once it is answered.
        watchdog: watches every run of the network.
    """

    def __init__(
        self, compute: Compute, prefix: int, dispatcher: Dispatcher, report: Report, watchdog: Watchdog
    ):
        self._compute = compute
        self._prefix = prefix
        self._dispatcher = dispatcher
        self._report = report
        self._watchdog = watchdog

    def execute(self, rows: Sequence[Row], single: bool, held: bool = False) -> None:
        """Run a batch that the dispatcher counts as running, answer it and report it.

        If the batch fails, each row is run again by itself, so that only rows that fail alone fail. If the
        session hangs, none is.

        Args:
            single: whether nothing else runs or waits.
            held: whether others wait for the calling thread.
        """
        started = time.perf_counter()
        error = self._run(rows, single, held)
        outcomes = [(rows, error)]
        if isinstance(error, InferenceFailed) and len(rows) > 1:
            outcomes = [([row], self._alone(row, error)) for row in rows]
        ended = time.perf_counter()
        lengths = [row.length for row in rows]
        longest, tokens = max(lengths), sum(lengths)
        broken = error is not None and all(isinstance(one, InferenceFailed) for _, one in outcomes)
        failed = error is not None
        self._dispatcher.ran(Ran(len(rows), longest, tokens, single, started, ended, failed, broken))
        for some, outcome in outcomes:
            self._answer(some, outcome)
        report = BatchReport(
            len(rows),
            longest,
            tokens,
            ended - started,
            tuple(started - row.since for row in rows),
            failed,
            sum(row.tokenize_seconds for row in rows),
            time.perf_counter() - ended,
        )
        try:
            self._report(report)
        except Exception:
            log.exception("a batch was run, and its report failed")
        self._dispatcher.answered()

    def _alone(self, row: Row, error: NerveError) -> NerveError | None:
        """Run a row of a batch that failed; return its own error, or the batch's if it is not run."""
        if self._dispatcher.hung or row.text.request.abandoned:
            return error
        return self._run([row], False, False)

    def _run(self, rows: Sequence[Row], single: bool, held: bool) -> NerveError | None:
        """Run rows together and scatter their logits; return the error, or None."""
        try:
            self._watchdog.begin(rows, held)
            try:
                logits = self._compute(rows, single)
            finally:
                self._watchdog.end()
            for row, values in zip(rows, logits, strict=False):  # a runtime may have added rows
                row.text.take(row.window, values, self._prefix)
        except NerveError as known:
            return known
        except BaseException as unknown:  # a Rust panic is no Exception
            return InferenceFailed(f"a batch failed: {unknown!r}")
        return None

    def _answer(self, rows: Sequence[Row], error: NerveError | None) -> None:
        """Answer the texts whose windows have all run, or fail all requests of the rows."""
        if error is None:
            try:
                answer([row.text for row in rows if row.text.ran()])
                return
            except BaseException as unknown:  # a Rust panic is no Exception
                log.exception("the answers to a batch failed")
                error = InferenceFailed(f"the answers to a batch failed: {unknown!r}")
        for row in rows:
            row.text.request.fail(error)
