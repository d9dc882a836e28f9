"""Outputs: the files that an output has until it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from app.bulk.errors import BulkError, OutputExists
from app.bulk.journal import Journal, Setup, read_journal
from app.bulk.parquet import remove_parts


class OutputFiles:
    """An output and the files beside it: what is half done, the journal of that, and what is set aside."""

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

    def begun(self, setup: Setup, force: bool = False, restart: bool = False) -> Journal | None:
        """How far an earlier process came with this output; None where none has begun.

        Args:
            force: an output that is there may be replaced.
            restart: throw away what is half done.

        Raises:
            OutputExists: there is an output already, and it may not be replaced.
            JournalDiffers: what is half done was begun otherwise.
        """
        if restart:
            self.remove_part()
        journal = read_journal(self.journal, setup)
        ended = journal is not None and journal.finished  # and its files may have their names already
        for path in (self.output, self.rejected):
            if path.exists() and not (force or ended):
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
