"""Outputs manages the files that an unfinished output consists of."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from app.bulk.errors import BulkError, OutputExists
from app.bulk.journal import Journal, Setup, read_journal
from app.bulk.parquet import remove_parts


class OutputFiles:
    """Names an output and the files beside it: the unfinished output, the journal, and the rejects."""

    def __init__(self, output: Path):
        self.output = output
        self.part = output.with_name(f"{output.name}.part")
        self.journal = output.with_name(f"{output.name}.part.json")
        self.rejected = output.with_name(f"{output.name}.rejected.jsonl")
        self.rejected_part = output.with_name(f"{output.name}.rejected.jsonl.part")
        self._lock = output.with_name(f"{output.name}.part.lock")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from writing this output, within the context.

        Raises:
            BulkError: another process writes it.
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

    def begun(self, setup: Setup, force: bool = False, restart: bool = False) -> Journal | None:
        """Return the journal of an earlier run of this output; None if there is no run to continue.

        Args:
            force: replace an output that exists.
            restart: discard the unfinished output first.

        Raises:
            OutputExists: the output exists, and `force` is not set.
            JournalDiffers: the earlier run had another setup.
        """
        if restart:
            self.remove_part()
        journal = read_journal(self.journal, setup)
        ended = journal is not None and journal.finished  # then its files may have their final names
        for path in (self.output, self.rejected):
            if path.exists() and not (force or ended):
                raise OutputExists(f"{path}: is there already; --force replaces it")
        return journal

    def remove_part(self) -> None:
        """Remove the unfinished files; the journal first, as it must not outlive what it describes."""
        self.journal.unlink(missing_ok=True)
        self.rejected_part.unlink(missing_ok=True)
        if self.part.is_dir():
            remove_parts(self.part)
        else:
            self.part.unlink(missing_ok=True)
