"""Job says what to annotate, and how."""

from dataclasses import dataclass
from pathlib import Path

from app.annotate import Wanted, check_labels
from app.bulk.errors import BulkError
from app.bulk.formats import Format
from app.bulk.groups import ENTITIES, Reader
from app.bulk.journal import Setup, identify
from app.bulk.lines import Lines
from app.bulk.parquet import ParquetReader
from app.bulk.readers import CsvReader, JsonlReader, TextReader
from app.manifest import MANIFEST, file_hash, read_manifest
from app.rendering import OffsetUnit
from app.versions.loading.options import LoadOptions


@dataclass(frozen=True)
class Job:
    """Holds the options of `nerve annotate`.

    Attributes:
        source, output: the files; None for standard input and output.
        field: the JSON field or the column with the text.
        wanted, offset_unit: which entities to write, and what their offsets count.
        folder: the folder of the version.
        strict: stop at the first record that cannot be read, instead of setting it aside.
        force: replace an output that exists.
        restart: discard the unfinished output of an earlier run.
        checkpoint_seconds: seconds between checkpoints, the most work that a kill can lose.
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
        """Check the files and options before any work begins.

        Raises:
            BulkError: the files or the options are wrong.
            NotFound, VersionRefused: the version or its manifest is missing or invalid.
            Unprocessable: the version lacks a label that is asked for.
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
        """Return the settings that must be the same for another process to continue the run."""
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
        """Open the input.

        Raises:
            BulkError: the input does not have its format, or lacks the column.
        """
        path, limit = self.source, self.max_text_chars
        if self.source_format.kind == "parquet":
            assert path is not None
            return ParquetReader(path, limit, self.field)
        # JSON writes a code point in at most 12 bytes; 1 MiB is for the other fields.
        line_limit = 12 * limit + (1 << 20)
        lines = Lines(path, self.source_format.gzipped, line_limit)
        total = path.stat().st_size if path else None
        if self.source_format.kind == "text":
            return TextReader(lines, limit, total)
        if self.source_format.kind == "jsonl":
            return JsonlReader(lines, limit, total, self.field)
        return CsvReader(lines, limit, total, self.field, str(path or "-"), line_limit)
