"""What is served on real folders. Each reconciliation is asked for by the test itself."""

import shutil
from pathlib import Path

import pytest

from app.errors import NotReady, VersionRefused
from app.versions.rollout.desired import Deployment
from app.versions.rollout.manager import VersionManager
from app.versions.rollout.store import StateUnreadable, StateUnwritable
from tests.app.versions.loading.test_loader import BAD_FOLDERS
from tests.managers import Make, look, served, states, write_state
from tests.tiny import POISON, edit_manifest, write_tiny_version


def reason(manager: VersionManager, version: int) -> str:
    (found,) = [s.reason for s in manager.model_status("ner-en") if s.version == version]
    return found or ""


# what is served


def test_without_a_state_the_highest_version_that_passes_serves_and_is_written_down(
    models_dir: Path, make: Make
) -> None:
    write_tiny_version(models_dir, version=2)
    edit_manifest(write_tiny_version(models_dir, version=3), format_version=9)
    manager = make()
    look(manager)
    assert served(manager) == 2
    assert manager.store.read("ner-en") == Deployment(stable=2, generation=1)


def test_a_new_version_is_checked_and_does_not_serve_by_itself(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    look(manager)
    assert served(manager) == 1
    assert states(manager) == {1: "serving", 2: "ready"}


def test_the_state_says_what_serves(models_dir: Path, make: Make) -> None:
    write_tiny_version(models_dir, version=2)
    manager = make()
    write_state(manager, '{"stable": 1}')
    look(manager)
    assert served(manager) == 1


def test_a_state_that_another_process_changed_is_followed(models_dir: Path, make: Make) -> None:
    write_tiny_version(models_dir, version=2)
    manager, other = make(), make()
    look(manager)
    other.operations.activate("ner-en", 1, "me")
    look(manager)
    assert served(manager) == 1
    other.operations.rollback("ner-en", "me")
    look(manager)
    assert served(manager) == 2


def test_a_stable_version_that_fails_at_the_start_falls_back_to_previous(
    models_dir: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_version(models_dir, version=2)
    write_tiny_version(models_dir, version=3)
    edit_manifest(models_dir / "ner-en/3", format_version=9)
    manager = make()
    write_state(manager, '{"stable": 3, "previous": 1, "generation": 4}')
    look(manager)
    assert served(manager) == 1
    assert manager.store.read("ner-en") == Deployment(stable=3, previous=1, generation=4)
    assert "ner-en/3: manifest.json has format_version 9" in caplog.text


def test_the_stable_version_serves_as_soon_as_it_passes(models_dir: Path, make: Make) -> None:
    folder = write_tiny_version(models_dir, version=2)
    edit_manifest(folder, format_version=9)
    manager = make()
    write_state(manager, '{"stable": 2, "previous": 1}')
    look(manager)
    assert served(manager) == 1
    edit_manifest(folder, format_version=1)
    look(manager)
    assert served(manager) == 2


def test_nothing_that_passes_is_not_ready_and_says_why(models_dir: Path, make: Make) -> None:
    edit_manifest(models_dir / "ner-en/1", format_version=9)
    manager = make()
    look(manager)
    assert not manager.ready("ner-en")
    with pytest.raises(NotReady, match=r"ner-en: no version serves: .*format_version 9"):
        served(manager)


def test_before_the_first_look_nothing_is_ready(make: Make) -> None:
    manager = make()
    with pytest.raises(NotReady, match="still being loaded"):
        served(manager)


def test_models_are_independent(models_dir: Path, make: Make) -> None:
    edit_manifest(write_tiny_version(models_dir, "broken"), format_version=9)
    write_tiny_version(models_dir, "other", 5)
    manager = make()
    look(manager)
    assert served(manager) == 1
    assert served(manager, "other") == 5
    with pytest.raises(NotReady):
        served(manager, "broken")


def test_a_version_whose_golden_text_fails_stops_no_other_model(models_dir: Path, make: Make) -> None:
    folder = write_tiny_version(models_dir, "a-broken-one")
    edit_manifest(folder, golden=[{"text": POISON, "entities": []}])
    manager = make()
    look(manager)
    assert served(manager) == 1


# bad folders


@pytest.mark.parametrize("bad", BAD_FOLDERS)
def test_a_bad_folder_is_refused_while_the_old_version_serves_and_is_ready_once_mended(
    models_dir: Path, manager: VersionManager, bad: str
) -> None:
    spoil, _ = BAD_FOLDERS[bad]
    folder = write_tiny_version(models_dir, version=7)
    spoil(folder)
    look(manager)
    assert states(manager) == {1: "serving", 7: "refused"}
    assert reason(manager, 7).startswith("ner-en/7: ")
    with pytest.raises(VersionRefused):
        manager.operations.activate("ner-en", 7, "me")
    assert served(manager) == 1
    assert manager.store.read("ner-en") == Deployment(stable=1, generation=1)

    shutil.rmtree(folder)
    write_tiny_version(models_dir, version=7)
    look(manager)
    assert states(manager) == {1: "serving", 7: "ready"}
    assert not reason(manager, 7)


def test_a_folder_that_is_still_being_copied_becomes_ready_with_its_last_file(
    models_dir: Path, manager: VersionManager, tmp_path: Path
) -> None:
    whole = write_tiny_version(tmp_path / "whole", version=2)
    folder = models_dir / "ner-en/2"
    folder.mkdir()
    seen = []
    for name in ("manifest.json", "tokenizer.json", "model.fp32.onnx"):
        look(manager)
        seen.append(states(manager)[2])
        content = (whole / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        look(manager)
        seen.append(states(manager)[2])
        (folder / name).write_bytes(content)
    look(manager)
    assert seen == ["refused"] * 6
    assert states(manager)[2] == "ready"


def test_a_refusal_is_logged_once(
    models_dir: Path, manager: VersionManager, caplog: pytest.LogCaptureFixture
) -> None:
    edit_manifest(write_tiny_version(models_dir, version=2), format_version=9)
    for _ in range(3):
        look(manager)
    assert caplog.text.count("format_version 9") == 1


# the state file


@pytest.mark.parametrize("torn", ["", '{"stable": 1, "prev', "null", '{"stable": "two"}'])
def test_a_torn_state_is_reported_and_the_last_good_one_kept(
    models_dir: Path, make: Make, caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    write_tiny_version(models_dir, version=2)
    manager = make()
    manager.operations.activate("ner-en", 1, "me")
    write_state(manager, torn)
    for _ in range(3):
        look(manager)
    assert served(manager) == 1
    assert caplog.text.count("ner-en.json: not a deployment") == 1
    assert manager.store.path("ner-en").read_text() == torn
    with pytest.raises(StateUnreadable):
        manager.operations.deployment("ner-en")


def test_a_state_that_is_torn_again_is_reported_again(
    manager: VersionManager, caplog: pytest.LogCaptureFixture
) -> None:
    for content in ("torn", '{"stable": 1}', "torn"):
        write_state(manager, content)
        look(manager)
    assert caplog.text.count("ner-en.json: not a deployment") == 2


def test_with_a_torn_state_a_start_serves_the_highest_version_and_writes_nothing(
    models_dir: Path, make: Make
) -> None:
    write_tiny_version(models_dir, version=2)
    manager = make()
    write_state(manager, '{"stable"')
    look(manager)
    assert served(manager) == 2
    assert manager.store.path("ner-en").read_text() == '{"stable"'


def test_a_state_that_names_a_version_which_is_not_there_is_reported(
    manager: VersionManager, caplog: pytest.LogCaptureFixture
) -> None:
    write_state(manager, '{"stable": 9}')
    look(manager)
    assert served(manager) == 1
    assert "ner-en: should serve 9: it is not there" in caplog.text


def test_without_a_folder_to_write_in_it_serves_all_the_same(
    models_dir: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (models_dir / ".state").write_text("a file where the folder should be")
    manager = make()
    look(manager)
    assert served(manager) == 1
    write_tiny_version(models_dir, version=2)
    with pytest.raises((StateUnwritable, StateUnreadable)):
        manager.operations.activate("ner-en", 2, "me")
    assert served(manager) == 1
