"""Job: what to annotate, and how."""

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
        """What must be the same for another process to go on with it."""
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
