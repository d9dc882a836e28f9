"""Refusals: every error of a bad version names the version, the reason and a remedy."""

import errno
import shutil
from pathlib import Path

import pytest

from app.errors import InferenceFailed, NerveError, NotChecked, SettingsError, VersionRefused
from app.versions.loading.refusals import refusing, still_there, where_of


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad\n  file"), "ner-en/1: cannot be loaded: bad file; export it again"),
        (ValueError(), "ner-en/1: cannot be loaded: ValueError(); export it again"),
        (InferenceFailed("it broke"), "ner-en/1: cannot be loaded: it broke; export it again"),
        (
            FileNotFoundError(errno.ENOENT, "none"),
            "ner-en/1: cannot be loaded: [Errno 2] none; export it again",
        ),
        (VersionRefused("it is torn"), "ner-en/1: it is torn"),
        (VersionRefused("ner-en/1: it is torn"), "ner-en/1: it is torn"),
    ],
)
def test_an_error_becomes_a_refusal(error: Exception, message: str) -> None:
    with pytest.raises(VersionRefused) as refused, refusing("ner-en/1", "cannot be loaded"):
        raise error
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (InferenceFailed("the session failed: Failed to allocate memory for requested buffer"), True),
        (NerveError("can't start new thread"), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (SettingsError("no key"), False),
    ],
)
def test_what_the_machine_lacks_is_not_the_versions_fault(error: Exception, memory: bool) -> None:
    with (
        pytest.raises(NotChecked, match=r"ner-en/1: was not checked \(") as raised,
        refusing("ner-en/1", "cannot be loaded"),
    ):
        raise error
    assert (raised.value.memory, raised.value.kind, raised.value.code) == (
        memory,
        "not_ready",
        "not_checked",
    )


def load_torn(folder: Path) -> None:
    with still_there(folder):
        raise VersionRefused("ner-en/1: a file is missing")


def test_of_a_folder_that_went_away_that_is_the_reason(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    with pytest.raises(VersionRefused, match="ner-en/1: a file is missing"):
        load_torn(folder)
    shutil.rmtree(folder)
    with pytest.raises(
        VersionRefused, match="its folder was removed while it was being loaded; copy it to"
    ):
        load_torn(folder)


def test_a_version_is_named_as_its_folder(models_dir: Path) -> None:
    assert where_of(models_dir / "ner-en/1") == "ner-en/1"
