"""Run: a corpus through one version, in order, with some requests in flight and checkpoints.

    reader → chunks → annotator.submit, several at once → entities → writer
                                                                  → journal, every some seconds

What is read, in flight and rendered is bounded, and so is memory, whatever the corpus. The texts of a chunk
run in the order of their lengths: whoever makes batches looks some way ahead only, and finds rows there
that need no padding, so that batches are larger and each sub-token has less of what a batch costs.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic_core import to_json

from app.annotate import Annotator
from app.bulk.chunks import Chunk, Reader, Reject
from app.bulk.errors import BadRecord, BulkError, Stopped
from app.bulk.journal import Journal
from app.bulk.lines import Position
from app.bulk.progress import Meter
from app.bulk.signals import Stop
from app.bulk.task import Files, Task
from app.bulk.writers import Sink, Writer, make_writer
from app.engine.decoding.entities import Prediction
from app.engine.memory import hold_little
from app.errors import InferenceFailed
from app.rendering import render
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version

_CHUNKS = 3
_CHARACTERS = 1 << 19
_SIZE = 1 << 24
"""Chunks, characters of texts and characters of whole records that are on their way at once: enough to keep
the processor busy, few enough to hold. One chunk may be larger."""

_FAILURES = 3
"""Records that fail one after the other before the session, not they, is to blame."""


def annotate(task: Task) -> str:
    """Annotate a corpus, or go on where an earlier call was stopped or killed.

    Returns:
        What was done, for people.

    Raises:
        BulkError, NotFound, Unprocessable: the files or options do not do.
        VersionRefused: the version cannot be loaded.
        InferenceFailed: it does not run.
        Stopped: by a signal; the same task goes on.
    """
    hold_little()
    task.check()
    with _explained(task), Stop() as stop, ExitStack() as closing:
        setup = task.setup()
        files, journal = None, None
        if task.output:
            files = Files(task.output)
            closing.enter_context(files.alone())
            journal = files.begun(task, setup)
            if journal and journal.finished and not files.part.exists():
                files.remove_part()
                return _said(task, journal, files)
        journal = journal or Journal(setup=setup)
        reader = task.reader()
        part = files.part if files else Path()
        writer = make_writer(task.output_format, reader, task.output, part, journal.output)
        closing.callback(writer.close)
        rejects = None
        if files and not (journal.finished and not files.rejected_part.exists()):  # it has its name
            rejects = Sink(files.rejected, files.rejected_part, False, journal.rejects)
            closing.callback(rejects.close)
        with stop.waiting():
            # What is in flight is bounded here, and so the queue needs no bound of its own.
            loaded = load_version(task.folder, replace(task.load, max_queue_tokens=sys.maxsize))
        closing.callback(loaded.close)
        run = _Run(task, reader, writer, rejects, loaded, stop, journal)
        run.to_the_end(files.journal if files else None)
        if files:
            files.remove_part()
        return f"{_said(task, run.journal, files)}; {loaded.manifest.name}/{loaded.manifest.version}, " + (
            f"{run.rate:,.0f} records a second"
        )


@dataclass(frozen=True)
class _Flight:
    """A chunk on its way.

    Attributes:
        order: the place in the chunk of each text that was sent.
    """

    chunk: Chunk
    order: list[int]
    future: Future[list[Prediction]]

    def result(self) -> list[Prediction]:
        """Of each text, in the chunk's order, once all are there."""
        found = zip(self.order, self.future.result(), strict=True)
        return [prediction for _, prediction in sorted(found, key=lambda pair: pair[0])]


class _Run:
    """One process's share of a task.

    Attributes:
        journal: how far it has come.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        writer: Writer,
        rejects: Sink | None,
        loaded: LoadedVersion,
        stop: Stop,
        journal: Journal,
    ):
        self.journal = journal
        self.rate = 0.0
        self._task, self._reader, self._writer, self._rejects = task, reader, writer, rejects
        self._annotator = Annotator(loaded, task.wanted)
        self._stop = stop
        self._flying: deque[_Flight] = deque()
        self._end = Position(journal.number, journal.offset, journal.digest)
        self._records, self._entities = journal.records, journal.entities
        self._rejected = Counter(journal.rejected)
        self._failed_in_a_row = 0

    def to_the_end(self, path: Path | None) -> None:
        """Annotate all that is left; `path` is the journal's."""
        begun, saved = self._end, time.monotonic()
        with Meter(self._reader.total, self._reader.progress) as meter:
            try:
                for chunk in self._landed(begun):
                    meter.advance(len(chunk.texts), self._records, self._reader.progress)
                    if time.monotonic() - saved >= self._task.checkpoint_seconds:
                        self._save(path)
                        saved = time.monotonic()
            except Stopped as stopped:
                self._save(path)
                stopped.records = self._records if path else None
                raise
            finally:
                for flight in self._flying:
                    flight.future.cancel()
            self.rate = meter.rate
        self._save(path, finished=True)
        if self._rejects:
            if self._rejected:
                self._rejects.finish()
            else:
                self._rejects.discard()
        self._writer.finish()

    def _landed(self, begun: Position) -> Iterator[Chunk]:
        """Each chunk, once it is written; meanwhile others are in flight."""
        chunks = self._reader.chunks(begun)
        while True:
            with self._stop.waiting():
                chunk = next(chunks, None)
            if chunk is None:
                break
            if self._task.strict and chunk.rejects:
                self._refuse(chunk.rejects[0])
            while self._flying and self._full(chunk):
                yield self._land()
            self._flying.append(self._sent(chunk))
        while self._flying:
            yield self._land()

    def _sent(self, chunk: Chunk) -> _Flight:
        order = sorted(range(len(chunk.texts)), key=lambda place: len(chunk.texts[place]))
        return _Flight(chunk, order, self._annotator.submit([chunk.texts[place] for place in order]))

    def _full(self, more: Chunk) -> bool:
        """Whether a chunk must wait until others have landed."""
        flying = [flight.chunk for flight in self._flying] + [more]
        return (
            len(flying) > _CHUNKS
            or sum(chunk.characters for chunk in flying) > _CHARACTERS
            or sum(chunk.size for chunk in flying) > _SIZE
        )

    def _land(self) -> Chunk:
        """Wait for the oldest chunk and write it."""
        flight = self._flying[0]
        chunk = flight.chunk
        with self._stop.waiting():
            try:
                predictions = flight.result()
            except InferenceFailed:
                chunk, predictions = self._one_by_one(chunk)
        self._flying.popleft()
        unit, kept = self._task.offset_unit, self._annotator.kept(predictions)
        answers = [
            render(text, prediction.entities, unit)
            for text, prediction in zip(chunk.texts, kept, strict=True)
        ]
        if answers:
            self._writer.write(chunk.rows, answers)
        for reject in chunk.rejects:
            self._set_aside(reject)
        self._records += len(answers)
        self._entities += sum(map(len, answers))
        self._end = chunk.end
        return chunk

    def _one_by_one(self, chunk: Chunk) -> tuple[Chunk, list[Prediction]]:
        """A chunk of which a text failed: the others' predictions, and it among the rejects.

        Raises:
            InferenceFailed: several in a row fail.
        """
        places, predictions, rejects = [], [], list(chunk.rejects)
        for place, text in enumerate(chunk.texts):
            try:
                predictions += self._annotator.submit([text]).result()
            except InferenceFailed as error:
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= _FAILURES:
                    raise InferenceFailed(
                        f"{self._place(chunk.numbers[place])}: {_FAILURES} records in a row failed, so the "
                        f"session seems broken: {error.message}; mend that, and the same command goes on"
                    ) from error
                failed = Reject(chunk.numbers[place], error.code, error.message, text[:1_000])
                if self._task.strict:
                    self._refuse(failed)
                rejects.append(failed)
            else:
                self._failed_in_a_row = 0
                places.append(place)
        rejects.sort(key=lambda reject: reject.number)
        kept = replace(
            chunk,
            numbers=[chunk.numbers[place] for place in places],
            texts=[chunk.texts[place] for place in places],
            rows=chunk.rows.take(places),
            rejects=rejects,
        )
        return kept, predictions

    def _set_aside(self, reject: Reject) -> None:
        self._rejected[reject.code] += 1
        if self._rejects:
            fields = {self._reader.unit: reject.number, **reject._asdict()}
            del fields["number"]
            self._rejects.write(to_json(fields) + b"\n")
        else:
            print(f"nerve: {self._place(reject.number)}: {reject.reason}; left out", file=sys.stderr)

    def _refuse(self, reject: Reject) -> None:
        raise BadRecord(
            f"{self._place(reject.number)}: {reject.reason}; mend it, or leave out --strict to set it aside"
        )

    def _place(self, number: int) -> str:
        return f"{self._task.source or '-'}: {self._reader.unit} {number}"

    def _save(self, path: Path | None, finished: bool = False) -> None:
        """A checkpoint: outputs first, then the journal that vouches for them."""
        output = self._writer.checkpoint()
        rejects = self._rejects.checkpoint() if self._rejects else 0
        self.journal = Journal(
            setup=self.journal.setup,
            number=self._end.number,
            offset=self._end.offset,
            digest=self._end.digest,
            records=self._records,
            entities=self._entities,
            output=output,
            rejects=rejects,
            rejected=dict(self._rejected),
            finished=finished,
        )
        if path:
            self.journal.write(path)


@contextmanager
def _explained(task: Task) -> Iterator[None]:
    """Where files are read and written: what the system says becomes an error that says what to do."""
    try:
        yield
    except BrokenPipeError:  # whoever read standard output has gone
        raise
    except OSError as error:
        raise BulkError(
            f"{error.filename or task.output or '-'}: {error.strerror or error}; mend that, and the same "
            "command goes on"
        ) from error


def _said(task: Task, journal: Journal, files: Files | None) -> str:
    said = f"{task.output or '-'}: {journal.records:,} records, {journal.entities:,} entities"
    if journal.rejected:
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(journal.rejected.items()))
        where = f"set aside in {files.rejected}" if files else "left out"
        said += f", {sum(journal.rejected.values()):,} {where} ({codes})"
    return said
