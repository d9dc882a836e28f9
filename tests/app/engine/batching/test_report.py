"""What is told of a batch."""

from dataclasses import FrozenInstanceError

import pytest

from app.engine.batching.report import BatchReport

REPORT = BatchReport(rows=2, longest=7, tokens=12, seconds=0.1, waited=(0.0, 0.2), failed=False)


def test_a_batch_of_which_only_the_session_is_timed_took_no_time_elsewhere() -> None:
    assert (REPORT.tokenize_seconds, REPORT.decode_seconds) == (0.0, 0.0)


def test_a_report_does_not_change_while_others_read_it() -> None:
    with pytest.raises(FrozenInstanceError):
        REPORT.rows = 3  # type: ignore[misc]
