"""What goes wrong with a corpus, and what is said of it."""

import signal
from pathlib import Path

import pytest

from app.bulk.errors import BadRecord, BulkError, JournalDiffers, OutputExists, Stopped, explained
from app.errors import FAULTS


def test_every_error_is_the_callers_and_has_a_code_of_its_own() -> None:
    errors = [BulkError, OutputExists, JournalDiffers, BadRecord]
    assert all(issubclass(error, BulkError) for error in errors)
    assert FAULTS.isdisjoint(error.kind for error in errors)
    assert len({error.code for error in errors}) == len(errors)


def test_a_stop_is_no_error_and_knows_its_signal() -> None:
    stopped = Stopped(signal.SIGTERM)
    assert not isinstance(stopped, Exception)
    assert (stopped.name, stopped.records) == ("SIGTERM", None)


@pytest.mark.parametrize(
    ("error", "output", "said"),
    [
        (OSError(28, "No space left on device"), Path("out.csv"), "out.csv: No space left on device"),
        (OSError(28, "No space left on device"), None, "-: No space left on device"),
        (OSError(13, "Permission denied", "in.csv"), Path("out.csv"), "in.csv: Permission denied"),
        (OSError("torn"), Path("out.csv"), "out.csv: torn"),
    ],
)
def test_what_the_system_says_names_the_file_and_the_remedy(
    error: OSError, output: Path | None, said: str
) -> None:
    with pytest.raises(BulkError) as explained_as, explained(output):
        raise error
    assert explained_as.value.message == f"{said}; mend that, and the same command goes on"


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError(), Stopped(signal.SIGINT)])
def test_whatever_is_no_trouble_with_files_passes_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as passed, explained(None):
        raise error
    assert passed.value is error
