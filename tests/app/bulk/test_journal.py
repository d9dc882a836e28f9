"""How far a run has come, as its journal keeps it, and whether another may go on with it."""

import os
from pathlib import Path
from typing import Any

import pytest

from app.bulk.errors import JournalDiffers
from app.bulk.journal import InputIdentity, Journal, Setup, identify, read_journal
from tests.app.bulk.corpora import SETUP


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(setup=SETUP, number=3, offset=90, digest="ab", records=2, rejected={"bad": 1})
    journal.write(tmp_path / "journal")
    assert read_journal(tmp_path / "journal", SETUP) == journal


def test_there_is_none_where_none_was_begun(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal", SETUP) is None


@pytest.mark.parametrize("content", ["{", "{}", '{"setup": 7}'])
def test_a_torn_journal_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "out.part.json").write_text(content)
    with pytest.raises(JournalDiffers, match=r"out\.part\.json: is no journal of this version of Nerve"):
        read_journal(tmp_path / "out.part.json", SETUP)


CHANGES: dict[str, Any] = {
    "input": InputIdentity(format="csv"),
    "output_format": "csv",
    "field": "body",
    "model": "other",
    "version": 2,
    "manifest_sha256": "1" * 64,
    "provider": "cuda",
    "variant": "int8",
    "labels": ["PER"],
    "min_score": 0.5,
    "offset_unit": "utf16",
    "max_text_chars": 11,
}


def test_whatever_changes_in_a_setup_is_told(tmp_path: Path) -> None:
    Journal(setup=SETUP).write(tmp_path / "journal")
    assert set(CHANGES) == set(Setup.model_fields)
    for name, value in CHANGES.items():
        with pytest.raises(JournalDiffers) as differs:
            read_journal(tmp_path / "journal", SETUP.model_copy(update={name: value}))
        was, now = ("text", "csv") if name == "input" else (getattr(SETUP, name), value)
        named = "input.format" if name == "input" else name
        assert f"begun otherwise: {named} was {was} and is {now}; give what it was" in differs.value.message


def test_all_differences_are_told_at_once(tmp_path: Path) -> None:
    Journal(setup=SETUP).write(tmp_path / "journal")
    other = SETUP.model_copy(update={"version": 2, "min_score": 0.5})
    with pytest.raises(
        JournalDiffers, match=r"version was 1 and is 2; min_score was 0\.0 and is 0\.5; give"
    ):
        read_journal(tmp_path / "journal", other)


def test_an_input_is_known_by_its_size_its_time_and_its_start(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("IBM")
    os.utime(path, (1, 1))
    identity = identify(path, "text")
    assert (identity.size, identity.modified_ns) == (3, 1_000_000_000)
    assert identify(path, "text") == identity
    path.write_text("IBN")
    os.utime(path, (1, 1))
    assert identify(path, "text").sha256_of_head != identity.sha256_of_head
    path.write_text("IBM")
    os.utime(path, (2, 2))
    assert identify(path, "text").modified_ns == 2_000_000_000


def test_standard_input_is_known_by_its_format_alone() -> None:
    assert identify(None, "csv") == InputIdentity(format="csv")
