"""What can go wrong with a corpus, beside what `app.errors` has.

* RequestError
  * BulkError: the files or options do not do; the message says which and what to do
    * OutputExists: there is one already
    * JournalDiffers: what is half done was begun otherwise
    * BadRecord: a record cannot be read, and none may be set aside
* Stopped: a signal asked for it; no error
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import RequestError


class BulkError(RequestError):
    """The files or options do not do."""

    code = "cannot_annotate"


class OutputExists(BulkError):
    """There is an output already."""

    code = "output_exists"


class JournalDiffers(BulkError):
    """What is half done was begun with another input, other options or another version."""

    code = "journal_differs"


class BadRecord(BulkError):
    """A record cannot be read, and none may be set aside."""

    code = "bad_record"


class Stopped(BaseException):
    """A signal asked to end; like `KeyboardInterrupt`, no error.

    Attributes:
        number: of the signal.
        records: made safe by then; None where there is nothing to go on from.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number
        self.records: int | None = None

    @property
    def name(self) -> str:
        """Of the signal, such as `SIGTERM`."""
        return signal.Signals(self.number).name


@contextmanager
def explained(output: Path | None) -> Iterator[None]:
    """Where files are read and written: what the system says becomes an error that says what to do.

    Args:
        output: named where the system names no file; None for standard output.
    """
    try:
        yield
    except BrokenPipeError:  # whoever read standard output has gone
        raise
    except OSError as error:
        raise BulkError(
            f"{error.filename or output or '-'}: {error.strerror or error}; mend that, and the same "
            "command goes on"
        ) from error
