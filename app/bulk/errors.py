"""Errors that a corpus can cause, beside those of `app.errors`.

* RequestError
  * BulkError: the files or the options are wrong; the message says which, and what to do
    * OutputExists: the output exists already
    * JournalDiffers: the earlier run had another input, other options or another version
    * BadRecord: a record cannot be read, and --strict forbids to set it aside
* Stopped: a signal ended the run; not an error
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import RequestError


class BulkError(RequestError):
    """Says that the files or the options are wrong."""

    code = "cannot_annotate"


class OutputExists(BulkError):
    """Says that the output exists already."""

    code = "output_exists"


class JournalDiffers(BulkError):
    """Says that the earlier run had another input, other options or another version."""

    code = "journal_differs"


class BadRecord(BulkError):
    """Says that a record cannot be read, and that --strict forbids to set it aside."""

    code = "bad_record"


class Stopped(BaseException):
    """Says that a signal ended the run; like `KeyboardInterrupt`, it is not an `Exception`.

    Attributes:
        number: the number of the signal.
        records: how many records are safe on disk; None if the run cannot be continued.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number
        self.records: int | None = None

    @property
    def name(self) -> str:
        """Return the name of the signal, such as `SIGTERM`."""
        return signal.Signals(self.number).name


@contextmanager
def explained(output: Path | None) -> Iterator[None]:
    """Turn errors of the operating system into a `BulkError` that says what to do.

    Args:
        output: the file that the message names if the system names none; None for standard output.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of standard output has closed it, and the command handles that
        raise
    except OSError as error:
        raise BulkError(
            f"{error.filename or output or '-'}: {error.strerror or error}; mend that, and the same "
            "command goes on"
        ) from error
