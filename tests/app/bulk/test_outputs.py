"""The files of an output until it is whole."""

from pathlib import Path

import pytest

from app.bulk.errors import BulkError, OutputExists
from app.bulk.journal import Journal
from app.bulk.outputs import OutputFiles
from tests.app.bulk.corpora import SETUP


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles(tmp_path / "out.jsonl")


def test_nothing_has_begun_where_there_is_no_journal(files: OutputFiles) -> None:
    assert files.begun(SETUP) is None


def test_a_journal_of_the_same_setup_is_gone_on_from_unless_all_is_to_be_thrown_away(
    files: OutputFiles,
) -> None:
    journal = Journal(setup=SETUP, records=7)
    journal.write(files.journal)
    files.part.write_text("half done")
    assert files.begun(SETUP) == journal
    assert files.begun(SETUP, restart=True) is None
    assert not files.part.exists()


def test_what_is_there_is_replaced_only_by_force_or_by_the_run_that_has_ended(files: OutputFiles) -> None:
    files.rejected.write_text("precious")
    with pytest.raises(OutputExists, match="--force"):
        files.begun(SETUP)
    assert files.begun(SETUP, force=True) is None
    ended = Journal(setup=SETUP, finished=True)
    ended.write(files.journal)
    assert files.begun(SETUP) == ended


def test_one_process_at_a_time(files: OutputFiles) -> None:
    with files.alone():
        with pytest.raises(BulkError, match="another nerve annotate"), OutputFiles(files.output).alone():
            pass
        Journal(setup=SETUP).write(files.journal)
    files.remove_part()
    with files.alone():
        pass
    assert list(files.output.parent.iterdir()) == []
