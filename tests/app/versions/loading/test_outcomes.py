"""Checks: what came of a version is known for as long as its folder stays as it is."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from app.errors import NotChecked, NotFound, NotReady, VersionRefused
from app.manifest import MANIFEST, read_manifest
from app.metrics import Metrics
from app.versions.loading.options import LoadOptions
from app.versions.loading.outcomes import Checker
from app.versions.storage.repository import Repository
from app.versions.storage.signatures import sign
from tests.keys import write_keys
from tests.servers import sample_sum
from tests.teams import write_team
from tests.tiny import TEXT, edit_manifest

ENDS = [lambda checker: checker.check("ner-en", 1), lambda checker: checker.load("ner-en", 1).close()]
"""Both ways in which a version is tried."""
each_way = pytest.mark.parametrize("tried", ENDS, ids=["check", "load"])
Tried = Callable[[Checker], None]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def checker(models_dir: Path, metrics: Metrics) -> Checker:
    return Checker(Repository(models_dir), LoadOptions(threads=1), metrics)


def tries(metrics: Metrics, outcome: str) -> float:
    exposition = generate_latest(metrics.registry).decode()
    return sample_sum(exposition, "nerve_model_load_seconds_count", {"outcome": outcome})


@each_way
def test_a_version_that_passes_is_known_until_its_folder_changes(
    models_dir: Path, checker: Checker, metrics: Metrics, tried: Tried
) -> None:
    assert checker.current("ner-en", 1) is None
    tried(checker)
    check = checker.current("ner-en", 1)
    assert check
    assert (check.refused, check.manifest) == (None, read_manifest(models_dir / "ner-en/1"))
    assert (tries(metrics, "loaded"), tries(metrics, "refused")) == (1, 0)
    edit_manifest(models_dir / "ner-en/1", description="another")
    assert checker.current("ner-en", 1) is None
    assert checker.outcomes("ner-en") == {1: check}


@each_way
def test_a_version_that_fails_is_known_until_its_folder_changes(
    models_dir: Path, checker: Checker, metrics: Metrics, tried: Tried, caplog: pytest.LogCaptureFixture
) -> None:
    edit_manifest(models_dir / "ner-en/1", format_version=9)
    for _ in range(2):
        with pytest.raises(VersionRefused, match=r"ner-en/1: manifest\.json has format_version 9"):
            tried(checker)
    check = checker.current("ner-en", 1)
    assert check
    assert check.refused
    assert "format_version 9" in check.refused
    assert tries(metrics, "refused") == 2
    assert len([line for line in caplog.messages if "version refused" in line]) == 1
    edit_manifest(models_dir / "ner-en/1", format_version=1)
    assert checker.current("ner-en", 1) is None
    tried(checker)
    assert checker.outcomes("ner-en")[1].refused is None


def test_a_check_loads_nothing_into_this_process(checker: Checker) -> None:
    before = threading.active_count()
    checker.check("ner-en", 1)
    assert threading.active_count() == before


def test_what_is_not_there_is_not_found(checker: Checker) -> None:
    for call in (checker.check, checker.load):
        with pytest.raises(NotFound, match="ner-en has no version 9"):
            call("ner-en", 9)
        with pytest.raises(NotFound, match="there is no model 'nope'"):
            call("nope", 1)
    assert checker.outcomes("nope") == {}


def test_a_version_that_failed_in_service_is_refused_until_it_is_checked(
    checker: Checker, caplog: pytest.LogCaptureFixture
) -> None:
    checker.load("ner-en", 1).close()
    checker.refuse("ner-en", 1, "ner-en/1 failed on three batches in a row")
    check = checker.current("ner-en", 1)
    assert check
    assert check.refused == "ner-en/1 failed on three batches in a row"
    assert "version refused: ner-en/1 failed on three batches in a row" in caplog.text
    checker.check("ner-en", 1)
    assert checker.outcomes("ner-en")[1].refused is None


@pytest.mark.parametrize("tried", [Checker.check, Checker.load])
def test_an_ensemble_is_tried_again_when_its_member_comes(
    models_dir: Path, checker: Checker, tried: Callable[[Checker, str, int], object]
) -> None:
    write_team(models_dir)
    (models_dir / "ner-en/2").rename(models_dir / "kept")
    with pytest.raises(VersionRefused, match="team/1: member ner-en/2 is not there; copy its folder to"):
        tried(checker, "team", 1)
    assert checker.current("team", 1)
    (models_dir / "kept").rename(models_dir / "ner-en/2")
    assert checker.current("team", 1) is None
    tried(checker, "team", 1)
    assert checker.outcomes("team")[1].refused is None
    shutil.rmtree(models_dir / "ner-en/2")
    assert checker.current("team", 1) is None


def test_an_ensembles_members_are_shared_with_what_is_loaded_beside_it(
    models_dir: Path, checker: Checker
) -> None:
    write_team(models_dir)
    team, member = checker.load("team", 1), checker.load("ner-en", 1)
    again = checker.load("ner-en", 1)
    assert member.model is again.model
    team.close()
    member.close()
    assert again.model.predict([TEXT])[0].entities
    again.close()


def test_batches_are_counted_for_the_version_that_ran_them(
    models_dir: Path, checker: Checker, metrics: Metrics
) -> None:
    write_team(models_dir)
    checker.load("team", 1).close()
    exposition = generate_latest(metrics.registry).decode()
    for model, version in (("ner-en", "1"), ("ner-en", "2"), ("other", "1")):
        of = {"model": model, "version": version}
        assert sample_sum(exposition, "nerve_inference_seconds_count", of) > 0
    assert sample_sum(exposition, "nerve_inference_seconds_count", {"model": "team"}) == 0


def test_a_version_may_be_loaded_in_the_background(
    checker: Checker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loaded, hidden = checker.load("ner-en", 1), checker.load("ner-en", 1, background=True)
    assert loaded.model is not hidden.model
    assert "ner-en/1 is loaded (fp32 on CPUExecutionProvider, 1 threads, in the background)" in caplog.text
    loaded.close()
    assert hidden.model.predict([TEXT])[0].entities
    hidden.close()


def test_after_the_end_nothing_is_checked_and_nothing_is_known(checker: Checker) -> None:
    checker.stop()
    with pytest.raises(NotReady, match="ner-en/1: was not checked to the end"):
        checker.check("ner-en", 1)
    assert checker.current("ner-en", 1) is None


def test_a_version_that_comes_and_goes_never_ends_in_another_error(
    models_dir: Path, tmp_path: Path, checker: Checker
) -> None:
    folder, stop = models_dir / "ner-en/1", threading.Event()
    shutil.copytree(folder, tmp_path / "kept")

    def disturb() -> None:
        while not stop.is_set():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(tmp_path / "kept", folder, dirs_exist_ok=True)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    reasons = set[str]()
    for _ in range(60):
        try:
            checker.load("ner-en", 1).close()
        except (VersionRefused, NotFound) as error:
            reasons.add(error.message)
    stop.set()
    disturber.join()
    assert reasons
    assert (folder / MANIFEST).exists()
    checker.load("ner-en", 1).close()


@each_way
def test_what_could_not_be_checked_is_not_refused(
    models_dir: Path, tmp_path: Path, metrics: Metrics, tried: Tried, caplog: pytest.LogCaptureFixture
) -> None:
    private, public = write_keys(tmp_path, "ours")
    sign(models_dir / "ner-en/1", private)
    missing = tmp_path / "missing.pem"
    options = LoadOptions(threads=1, trusted_keys=(missing,))
    checker = Checker(Repository(models_dir), options, metrics)
    with pytest.raises(NotChecked, match=r"ner-en/1: was not checked .*missing\.pem.* be tried again"):
        tried(checker)
    check = checker.current("ner-en", 1)
    assert check
    assert (check.manifest, check.refused) == (None, None)
    assert check.undecided
    assert "missing.pem" in check.undecided
    assert (tries(metrics, "undecided"), tries(metrics, "refused")) == (1, 0)
    assert "ner-en/1: was not checked" in caplog.text
    shutil.copy(public, missing)
    tried(checker)
    assert checker.outcomes("ner-en")[1].undecided is None


def test_what_could_not_be_checked_is_tried_again_after_growing_pauses(
    models_dir: Path, tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.pem"
    checker = Checker(Repository(models_dir), LoadOptions(threads=1, trusted_keys=(missing,)), metrics)
    for pause in (2, 4, 8, 16, 32, 60, 60):
        before = time.monotonic()
        with pytest.raises(NotChecked):
            checker.load("ner-en", 1)
        check = checker.current("ner-en", 1)
        assert check
        assert before + pause <= check.again_at <= time.monotonic() + pause
    with pytest.raises(NotChecked, match=r"missing\.pem"):
        checker.ensure("ner-en", 1)
    assert tries(metrics, "undecided") == 7  # this tried nothing
    with pytest.raises(NotChecked):
        checker.ensure("ner-en", 1, again=True)
    assert tries(metrics, "undecided") == 8
    monkeypatch.setattr("time.monotonic", lambda: check.again_at + 100)
    with pytest.raises(NotChecked):
        checker.ensure("ner-en", 1)
    assert tries(metrics, "undecided") == 9
    edit_manifest(models_dir / "ner-en/1", description="another")
    assert checker.current("ner-en", 1) is None


def test_a_list_of_what_is_revoked_counts_at_once(
    models_dir: Path, tmp_path: Path, metrics: Metrics
) -> None:
    revoked = tmp_path / "revoked.txt"
    revoked.write_text("")
    checker = Checker(Repository(models_dir), LoadOptions(threads=1, revoked=revoked), metrics)
    checker.load("ner-en", 1).close()
    assert checker.current("ner-en", 1)
    revoked.write_text("ner-en/1\n")
    assert checker.current("ner-en", 1) is None
    with pytest.raises(VersionRefused, match="ner-en/1: is revoked"):
        checker.load("ner-en", 1)
