"""Task: what to annotate and how, and the files that a run of it has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from app.annotate import Wanted, check_labels
from app.bulk.chunks import ENTITIES, Reader
from app.bulk.errors import BulkError, OutputExists
from app.bulk.formats import Format
from app.bulk.journal import Journal, Setup, identify, read_journal
from app.bulk.lines import Lines
from app.bulk.parquet import ParquetReader, remove_parts
from app.bulk.records import CsvReader, JsonlReader, TextReader
from app.manifest import MANIFEST, file_hash, read_manifest
from app.rendering import OffsetUnit
from app.versions.loading.options import LoadOptions


@dataclass(frozen=True)
class Task:
    """What to annotate, and how.

    Attributes:
        source, output: None for standard input and output.
        field: the JSON field or the column with the text.
        wanted, offset_unit: which entities, and what their offsets count.
        folder: of the version.
        strict: the first record that cannot be read is an error.
        force: replace an output that is there.
        restart: throw away what is half done.
        checkpoint_seconds: a kill loses the work of so many seconds at most.
    """

    source: Path | None
    source_format: Format
    output: Path | None
    output_format: Format
    field: str
    wanted: Wanted
    offset_unit: OffsetUnit
    folder: Path
    load: LoadOptions
    max_text_chars: int
    strict: bool = False
    force: bool = False
    restart: bool = False
    checkpoint_seconds: float = 5.0

    def check(self) -> None:
        """What can be told before anything is begun.

        Raises:
            BulkError: the files or options do not do.
            NotFound, VersionRefused: there is no such version, or no manifest.
            Unprocessable: it lacks a label that is asked for.
        """
        if self.field == ENTITIES:
            raise BulkError(
                f"--field {ENTITIES}: the entities are written there; rename the field of the texts"
            )
        if self.source and not self.source.is_file():
            what = "is no file; pipe it into -" if self.source.exists() else "there is no such file"
            raise BulkError(f"{self.source}: {what}")
        if self.output and not self.output.parent.is_dir():
            raise BulkError(f"{self.output}: {self.output.parent} is no folder; make it first")
        if self.output and self.output.is_dir():
            raise BulkError(f"{self.output}: is a folder; name a file in it")
        if self.source and self.output and self.output.exists() and self.output.samefile(self.source):
            raise BulkError(f"{self.output}: is the input; name another output")
        check_labels(self.wanted.labels, read_manifest(self.folder).labels)

    def setup(self) -> Setup:
        """What must be the same for a run to go on."""
        return Setup(
            input=identify(self.source, str(self.source_format)),
            output_format=str(self.output_format),
            field=self.field,
            model=self.folder.parent.name,
            version=int(self.folder.name),
            manifest_sha256=file_hash(self.folder / MANIFEST),
            provider=self.load.provider,
            variant=self.load.variant,
            labels=None if self.wanted.labels is None else list(self.wanted.labels),
            min_score=self.wanted.min_score,
            offset_unit=self.offset_unit,
            max_text_chars=self.max_text_chars,
        )

    def reader(self) -> Reader:
        """The reader of its input.

        Raises:
            BulkError: the input is not what its format says, or has no such column.
        """
        path, limit = self.source, self.max_text_chars
        if self.source_format.kind == "parquet":
            assert path is not None
            return ParquetReader(path, limit, self.field)
        # JSON makes at most 12 bytes of a code point; the rest is for other fields.
        line_limit = 12 * limit + (1 << 20)
        lines = Lines(path, self.source_format.gzipped, line_limit)
        total = path.stat().st_size if path else None
        if self.source_format.kind == "text":
            return TextReader(lines, limit, total)
        if self.source_format.kind == "jsonl":
            return JsonlReader(lines, limit, total, self.field)
        return CsvReader(lines, limit, total, self.field, str(path or "-"), line_limit)


class Files:
    """The files of a run beside its output: what is half done, the journal of it, and what is set aside."""

    def __init__(self, output: Path):
        self.output = output
        self.part = output.with_name(f"{output.name}.part")
        self.journal = output.with_name(f"{output.name}.part.json")
        self.rejected = output.with_name(f"{output.name}.rejected.jsonl")
        self.rejected_part = output.with_name(f"{output.name}.rejected.jsonl.part")
        self._lock = output.with_name(f"{output.name}.part.lock")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it no other process writes this output.

        Raises:
            BulkError: one does.
        """
        lock = FileLock(self._lock, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BulkError(
                f"{self.output}: another nerve annotate is writing it; wait for it, or name another output"
            ) from None
        try:
            yield
        finally:
            if not self.journal.exists():
                self._lock.unlink(missing_ok=True)
            lock.release()

    def begun(self, task: Task, setup: Setup) -> Journal | None:
        """How far an earlier run came; None where none was begun.

        Raises:
            OutputExists: there is an output already, and it may not be replaced.
            JournalDiffers: what is half done was begun otherwise.
        """
        if task.restart:
            self.remove_part()
        journal = read_journal(self.journal, setup)
        ended = journal is not None and journal.finished  # and its files may have their names already
        for path in (self.output, self.rejected):
            if path.exists() and not (task.force or ended):
                raise OutputExists(f"{path}: is there already; --force replaces it")
        return journal

    def remove_part(self) -> None:
        """Remove what is half done, or was joined; the journal first, which vouches for it."""
        self.journal.unlink(missing_ok=True)
        self.rejected_part.unlink(missing_ok=True)
        if self.part.is_dir():
            remove_parts(self.part)
        else:
            self.part.unlink(missing_ok=True)
