"""What the commands of `nerve models` share, called as they call it."""

import getpass
import os
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from app.cli.operating import (
    change,
    explaining,
    operations_of,
    roles_of,
    said,
    user,
    version_of,
    versions_of,
)
from app.errors import BadRequest, NotFound
from app.settings import Settings
from app.versions.rollout.desired import Canary, Deployment, Shadow
from app.versions.rollout.operations import Operations
from app.versions.rollout.store import DeploymentStore
from app.versions.rollout.workers import ModelReport, Workers
from app.versions.storage.repository import Repository
from tests.tiny import write_tiny_version

ALL = Deployment(
    stable=2,
    previous=1,
    canary=Canary(version=3, percent=2.5),
    shadow=(Shadow(version=4, percent=10), Shadow(version=5, percent=100)),
)


# which versions


@given(name=st.from_regex(r"[a-z0-9][a-z0-9._-]*", fullmatch=True), version=st.integers(min_value=1))
def test_a_name_and_a_number_are_a_version(name: str, version: int) -> None:
    assert version_of(f"{name}/{version}") == (name, version)


@pytest.mark.parametrize(
    "which", ["", "ner-en", "ner-en/", "ner-en/x", "ner-en/0", "ner-en/01", "/1", "a/1/2"]
)
def test_what_names_no_version_is_told(which: str) -> None:
    with pytest.raises(BadRequest) as refused:
        version_of(which)
    assert refused.value.message == f"{which!r}: names no version; give NAME/VERSION, such as ner-en/2"


def test_a_name_means_its_versions_and_nothing_means_all(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=3)
    write_tiny_version(models_dir, "other", version=2)
    repository = Repository(models_dir)
    assert versions_of(repository, "ner-en") == [("ner-en", 1), ("ner-en", 3)]
    assert versions_of(repository, "ner-en/3") == [("ner-en", 3)]
    assert versions_of(repository, None) == [("ner-en", 1), ("ner-en", 3), ("other", 2)]
    with pytest.raises(NotFound, match=r"no model 'nope' \(there: ner-en, other\)"):
        versions_of(repository, "nope")


@pytest.mark.parametrize(("there", "message"), [(True, "holds no version"), (False, "is no folder")])
def test_a_folder_without_versions_is_told(tmp_path: Path, there: bool, message: str) -> None:
    models = tmp_path / "models"
    if there:
        models.mkdir()
    with pytest.raises(NotFound) as refused:
        versions_of(Repository(models), None)
    assert refused.value.message.startswith(
        f"{models}: {message}; bring one in (nerve models add SOURCE), or set NERVE_MODELS_DIR"
    )


# what is said


def test_a_deployment_is_said_in_one_line() -> None:
    assert said(Deployment(stable=2)) == "stable 2, previous None"
    assert said(ALL) == (
        "stable 2, previous 1, canary 3 with 2.5 %, shadow 4 with 10 %, shadow 5 with 100 %"
    )


def test_each_version_has_its_role() -> None:
    assert roles_of(ALL) == {
        1: "previous",
        2: "stable",
        3: "canary 2.5 %",
        4: "shadow 10 %",
        5: "shadow 100 %",
    }


def test_the_role_of_a_version_is_the_one_that_counts_most() -> None:
    canary = Canary(version=1, percent=5)
    assert roles_of(Deployment(stable=2, previous=1, canary=canary))[1] == "canary 5 %"
    assert roles_of(Deployment(stable=2, previous=2))[2] == "stable"


def test_a_value_that_a_change_cannot_have_is_named() -> None:
    class Share(BaseModel):
        percent: float = Field(le=100)

    with pytest.raises(BadRequest) as refused, explaining():
        Share(percent=101)
    assert refused.value.message == "percent=101: Input should be less than or equal to 100"


# who and what


def test_a_user_goes_by_name_or_else_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert user() == "user ada"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # of nobody on this machine
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert user() == "uid 54321"


def test_operations_are_on_the_folders_of_the_settings(models_dir: Path, tmp_path: Path) -> None:
    settings = Settings(models_dir=models_dir, state_dir=tmp_path / "state")
    DeploymentStore(tmp_path / "state").edit("ner-en", lambda deployment: deployment.with_stable(1))
    assert operations_of(settings).deployment("ner-en").stable == 1


@pytest.mark.parametrize(("generation", "code"), [(3, 0), (2, 1)])
def test_a_change_is_said_and_waited_for(
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    generation: int,
    code: int,
) -> None:
    """This process reports as the only worker, which has followed or not."""
    monkeypatch.setenv("NERVE_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("NERVE_CONVERGE_TIMEOUT", "0")
    Workers(models_dir / ".state").report({"ner-en": ModelReport(generation=generation, stable=2)})
    made = Deployment(stable=2, previous=1, generation=3)
    with pytest.raises(typer.Exit) as ended:
        change("ner-en", lambda operations, by: made)
    said_of_it = capsys.readouterr()
    assert ended.value.exit_code == code
    assert said_of_it.out == (f"ner-en: stable 2, previous 1\n{1 - code} of 1 running workers follow\n")
    assert said_of_it.err.endswith(f":{os.getpid()}: has not followed yet\n" if code else "")
    assert bool(said_of_it.err) is bool(code)


def test_a_change_is_made_in_the_users_name_and_waits_for_no_server_that_is_not_there(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_by = []

    def make(operations: Operations, by: str) -> Deployment:
        made_by.append(by)
        return Deployment(stable=2)

    monkeypatch.setenv("NERVE_MODELS_DIR", str(models_dir))
    with pytest.raises(typer.Exit) as ended:
        change("ner-en", make)
    assert made_by == [user()]
    assert (ended.value.exit_code, capsys.readouterr().out) == (0, "ner-en: stable 2, previous None\n")
