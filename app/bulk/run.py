"""Run annotates a corpus with one version, in the order of the input, with checkpoints.

    reader → groups → annotator.submit, several at once → entities → writer
                                                                   → journal, at each checkpoint

Memory does not grow with the corpus, since few groups are in flight. The texts of a group are sent in the
order of their lengths: rows of about one length then wait side by side, and their batches need little
padding.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic_core import to_json

from app.annotate import Annotator
from app.bulk.errors import BadRecord, Stopped, explained
from app.bulk.groups import Group, Reader, Reject
from app.bulk.job import Job
from app.bulk.journal import Journal
from app.bulk.lines import Position
from app.bulk.outputs import OutputFiles
from app.bulk.progress import Meter
from app.bulk.signals import Stop
from app.bulk.writers import Sink, Writer, make_writer
from app.engine.decoding.entities import Prediction
from app.errors import InferenceFailed
from app.rendering import render
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version

_GROUPS = 3
_CHARACTERS = 1 << 19
_SIZE = 1 << 24
"""At most this many groups, characters of texts and characters of whole records are in flight: enough to
keep the processor busy, few enough for memory. A single group may have more characters."""

_FAILURES = 3
"""After this many failed records in a row, the cause is taken to be the session and not the records."""


def annotate(job: Job) -> str:
    """Annotate a corpus, or continue where an earlier call was stopped or killed.

    Returns:
        A summary for people.

    Raises:
        BulkError, NotFound, Unprocessable: the files or the options are wrong.
        VersionRefused: the version cannot be loaded.
        InferenceFailed: the network does not run.
        Stopped: a signal ended the run; the same job continues it.
    """
    job.check()
    with explained(job.output), Stop() as stop, ExitStack() as closing:
        setup = job.setup()
        files, journal = None, None
        if job.output:
            files = OutputFiles(job.output)
            closing.enter_context(files.alone())
            journal = files.begun(setup, job.force, job.restart)
            if journal and journal.finished and not files.part.exists():
                files.remove_part()
                return _said(job, journal, files)
        journal = journal or Journal(setup=setup)
        reader = job.reader()
        part = files.part if files else Path()
        writer = make_writer(job.output_format, reader, job.output, part, journal.output)
        closing.callback(writer.close)
        rejects = None
        if files and not (journal.finished and not files.rejected_part.exists()):  # else renamed
            rejects = Sink(files.rejected, files.rejected_part, False, journal.rejects)
            closing.callback(rejects.close)
        with stop.waiting():
            # The queue needs no limit, because `_full` bounds what is in flight.
            loaded = load_version(job.folder, replace(job.load, max_queue_tokens=sys.maxsize))
        closing.callback(loaded.close)
        work = _Work(job, reader, writer, rejects, loaded, stop, journal)
        work.to_the_end(files.journal if files else None)
        if files:
            files.remove_part()
        return f"{_said(job, work.journal, files)}; {loaded.manifest.name}/{loaded.manifest.version}, " + (
            f"{work.rate:,.0f} records a second"
        )


@dataclass(frozen=True)
class _Flight:
    """Holds a group in flight.

    Attributes:
        order: for each text in the order of sending, its place in the group.
    """

    group: Group
    order: list[int]
    future: Future[list[Prediction]]

    def result(self) -> list[Prediction]:
        """Wait for the predictions, and return them in the group's order."""
        found = zip(self.order, self.future.result(), strict=True)
        return [prediction for _, prediction in sorted(found, key=lambda pair: pair[0])]


class _Work:
    """Does the part of a job that one process does.

    Attributes:
        journal: the last checkpoint.
        rate: records a second, once all is done.
    """

    def __init__(
        self,
        job: Job,
        reader: Reader,
        writer: Writer,
        rejects: Sink | None,
        loaded: LoadedVersion,
        stop: Stop,
        journal: Journal,
    ):
        self.journal = journal
        self.rate = 0.0
        self._job, self._reader, self._writer, self._rejects = job, reader, writer, rejects
        self._annotator = Annotator(loaded, job.wanted)
        self._stop = stop
        self._flying: deque[_Flight] = deque()
        self._end = Position(journal.number, journal.offset, journal.digest)
        self._records, self._entities = journal.records, journal.entities
        self._rejected = Counter(journal.rejected)
        self._failed_in_a_row = 0

    def to_the_end(self, path: Path | None) -> None:
        """Annotate the rest of the input; `path` is the journal's file."""
        begun, saved = self._end, time.monotonic()
        with Meter(self._reader.total, self._reader.progress) as meter:
            try:
                for group in self._landed(begun):
                    meter.advance(len(group.texts), self._records, self._reader.progress)
                    if time.monotonic() - saved >= self._job.checkpoint_seconds:
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

    def _landed(self, begun: Position) -> Iterator[Group]:
        """Yield each group once it is written, while others are in flight."""
        groups = self._reader.groups(begun)
        while True:
            with self._stop.waiting():
                group = next(groups, None)
            if group is None:
                break
            if self._job.strict and group.rejects:
                self._refuse(group.rejects[0])
            while self._flying and self._full(group):
                yield self._land()
            self._flying.append(self._sent(group))
        while self._flying:
            yield self._land()

    def _sent(self, group: Group) -> _Flight:
        order = sorted(range(len(group.texts)), key=lambda place: len(group.texts[place]))
        return _Flight(group, order, self._annotator.submit([group.texts[place] for place in order]))

    def _full(self, more: Group) -> bool:
        """Say whether a group must wait until others are written."""
        flying = [flight.group for flight in self._flying] + [more]
        return (
            len(flying) > _GROUPS
            or sum(group.characters for group in flying) > _CHARACTERS
            or sum(group.size for group in flying) > _SIZE
        )

    def _land(self) -> Group:
        """Wait for the oldest group and write it."""
        flight = self._flying[0]
        group = flight.group
        with self._stop.waiting():
            try:
                predictions = flight.result()
            except InferenceFailed:
                group, predictions = self._one_by_one(group)
        self._flying.popleft()
        unit, kept = self._job.offset_unit, self._annotator.kept(predictions)
        answers = [
            render(text, prediction.entities, unit)
            for text, prediction in zip(group.texts, kept, strict=True)
        ]
        if answers:
            self._writer.write(group.rows, answers)
        for reject in group.rejects:
            self._set_aside(reject)
        self._records += len(answers)
        self._entities += sum(map(len, answers))
        self._end = group.end
        return group

    def _one_by_one(self, group: Group) -> tuple[Group, list[Prediction]]:
        """Annotate the texts of a failed group one by one; those that fail become rejects.

        Raises:
            InferenceFailed: `_FAILURES` texts in a row fail.
        """
        places, predictions, rejects = [], [], list(group.rejects)
        for place, text in enumerate(group.texts):
            try:
                predictions += self._annotator.submit([text]).result()
            except InferenceFailed as error:
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= _FAILURES:
                    raise InferenceFailed(
                        f"{self._place(group.numbers[place])}: {_FAILURES} records in a row failed, so the "
                        f"session seems broken: {error.message}; mend that, and the same command goes on"
                    ) from error
                failed = Reject(group.numbers[place], error.code, error.message, text[:1_000])
                if self._job.strict:
                    self._refuse(failed)
                rejects.append(failed)
            else:
                self._failed_in_a_row = 0
                places.append(place)
        rejects.sort(key=lambda reject: reject.number)
        kept = replace(
            group,
            numbers=[group.numbers[place] for place in places],
            texts=[group.texts[place] for place in places],
            rows=group.rows.take(places),
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
        return f"{self._job.source or '-'}: {self._reader.unit} {number}"

    def _save(self, path: Path | None, finished: bool = False) -> None:
        """Write a checkpoint: first the outputs, then the journal, which must not be ahead of them."""
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


def _said(job: Job, journal: Journal, files: OutputFiles | None) -> str:
    said = f"{job.output or '-'}: {journal.records:,} records, {journal.entities:,} entities"
    if journal.rejected:
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(journal.rejected.items()))
        where = f"set aside in {files.rejected}" if files else "left out"
        said += f", {sum(journal.rejected.values()):,} {where} ({codes})"
    return said
