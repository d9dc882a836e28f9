"""Revocations: a version that was signed once can be refused later."""

import hashlib
from datetime import datetime
from pathlib import Path

import pytest

from app.errors import NotChecked, VersionRefused
from app.manifest import MANIFEST
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from tests.tiny import edit_manifest


@pytest.fixture
def version(models_dir: Path) -> Path:
    """A version that was created at the beginning of 2026."""
    return models_dir / "ner-en" / "1"


def test_what_the_list_names_is_refused(version: Path, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked.txt"
    options = LoadOptions(threads=1, revoked=revoked)
    revoked.write_text("# found faulty\n\nner-en/11\nner-de/1  # another\n")
    load_version(version, options).close()
    digest = hashlib.sha256((version / MANIFEST).read_bytes()).hexdigest()
    for name in ("ner-en/1", digest):
        revoked.write_text(f"ner-en/11\n{name}  # leaks\n")
        with pytest.raises(VersionRefused, match=rf"ner-en/1: is revoked, revoked\.txt names .*{name}"):
            load_version(version, options)


def test_a_list_that_cannot_be_read_lets_nothing_pass(version: Path, tmp_path: Path) -> None:
    with pytest.raises(NotChecked, match=r"ner-en/1: was not checked \(NERVE_REVOKED: .*none\.txt"):
        load_version(version, LoadOptions(threads=1, revoked=tmp_path / "none.txt"))


@pytest.mark.parametrize("since", ["2026-01-01", "2026-01-01T00:00:00+00:00", "2025-12-31T23:00:00-01:00"])
def test_what_was_made_since_passes(version: Path, since: str) -> None:
    load_version(version, LoadOptions(threads=1, trusted_since=datetime.fromisoformat(since))).close()


def test_what_was_made_before_is_refused(version: Path) -> None:
    options = LoadOptions(threads=1, trusted_since=datetime.fromisoformat("2026-01-01T00:00:01"))
    with pytest.raises(
        VersionRefused, match=r"ner-en/1: was created 2026-01-01T.*, before NERVE_TRUSTED_S"
    ):
        load_version(version, options)
    edit_manifest(version, created="yesterday")
    with pytest.raises(VersionRefused, match=r"created is 'yesterday', which is no ISO 8601"):
        load_version(version, options)
