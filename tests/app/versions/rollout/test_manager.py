"""The manager on real folders. Each look is taken by hand, so that every step is the test's own."""

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from app.errors import NotFound, NotReady, VersionRefused
from app.metrics import Metrics
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.options import LoadOptions
from app.versions.rollout.desired import Deployment, DeploymentStore, StateUnreadable, StateUnwritable
from app.versions.rollout.manager import VersionManager
from app.versions.storage.repository import Repository
from tests.bad_versions import BAD_FOLDERS
from tests.servers import sample_sum, until
from tests.tiny import POISON, TEXT, edit_manifest, write_tiny_version

Make = Callable[[], VersionManager]


@pytest.fixture
def make(models_dir: Path) -> Iterator[Make]:
    """Makes managers of the models folder, each as a server that starts, and closes them."""
    made: list[VersionManager] = []

    def make() -> VersionManager:
        made.append(
            VersionManager(
                Repository(models_dir),
                DeploymentStore(models_dir / ".state"),
                LoadOptions(threads=1),
                Metrics(),
                max_pinned=2,
                poll_seconds=0.02,
            )
        )
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make: Make) -> VersionManager:
    """A manager that serves `ner-en/1`."""
    manager = make()
    look(manager)
    return manager


def served(manager: VersionManager, name: str = "ner-en", version: int | None = None) -> int:
    with manager.leased(name, version) as loaded:
        loaded.model.predict([TEXT])
        return loaded.manifest.version


def look(manager: VersionManager) -> None:
    """Look once at the desired state, and once at what is new."""
    manager.converge()
    manager.check()


def holds(manager: VersionManager, version: int) -> bool:
    """Whether a version is loaded for requests that pin it."""
    lease = manager.lease("ner-en", version)
    if lease:
        lease.release()
    return lease is not None


def states(manager: VersionManager) -> dict[int, str]:
    return {status.version: status.state for status in manager.model_status("ner-en")}


def reason(manager: VersionManager, version: int) -> str:
    (found,) = [s.reason for s in manager.model_status("ner-en") if s.version == version]
    return found or ""


def write_state(manager: VersionManager, content: str) -> None:
    path = manager.store.path("ner-en")
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


def metric(manager: VersionManager, name: str, **labels: str) -> float:
    return sample_sum(generate_latest(manager._metrics.registry).decode(), name, labels)


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


# activating


def test_activate_makes_a_version_serve_and_rollback_undoes_it(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    assert manager.operations.activate("ner-en", 2, "me") == Deployment(stable=2, previous=1, generation=2)
    assert served(manager) == 2
    assert states(manager)[1] in ("ready", "found")
    assert manager.operations.rollback("ner-en", "me") == Deployment(stable=1, previous=2, generation=3)
    assert served(manager) == 1
    assert manager.operations.rollback("ner-en", "me").stable == 2


def test_activating_what_serves_changes_nothing(manager: VersionManager) -> None:
    assert manager.operations.activate("ner-en", 1, "me") == Deployment(stable=1, generation=1)
    assert served(manager) == 1


def test_there_is_no_rollback_without_a_version_before(manager: VersionManager) -> None:
    with pytest.raises(VersionRefused, match="no version served before") as refused:
        manager.operations.rollback("ner-en", "me")
    assert refused.value.code == "no_previous_version"


def test_a_rollback_to_a_version_that_fails_is_refused(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2)
    manager.operations.activate("ner-en", 2, "me")
    edit_manifest(models_dir / "ner-en/1", format_version=9)
    with pytest.raises(VersionRefused, match="format_version 9"):
        manager.operations.rollback("ner-en", "me")
    assert served(manager) == 2


def test_what_is_not_there_is_not_found(manager: VersionManager) -> None:
    for call in (
        lambda: manager.operations.activate("ner-en", 9, "me"),
        lambda: manager.operations.activate("nope", 1, "me"),
        lambda: manager.operations.rollback("nope", "me"),
        lambda: manager.operations.deployment("nope"),
        lambda: manager.model_status("nope"),
        lambda: served(manager, "nope"),
        lambda: served(manager, "ner-en", 9),
    ):
        with pytest.raises(NotFound):
            call()


# leases


def test_a_lease_keeps_its_version_through_a_swap(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2, ibm="LOC")
    with manager.leased("ner-en") as old:
        manager.operations.activate("ner-en", 2, "me")
        assert old.manifest.version == 1
        assert old.model.predict([TEXT])[0].entities[1].label == "ORG"
        assert old.model.alive
    until(lambda: not old.model.alive)
    until(lambda: metric(manager, "nerve_model_info", version="1") == 0)
    assert metric(manager, "nerve_model_info", version="2") == 1


def test_a_swapped_version_that_nobody_uses_is_closed_at_once(
    models_dir: Path, manager: VersionManager
) -> None:
    with manager.leased("ner-en") as old:
        pass
    write_tiny_version(models_dir, version=2)
    manager.operations.activate("ner-en", 2, "me")
    assert not old.model.alive


def test_leases_that_overlap_swaps_all_get_their_answers(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2, ibm="LOC")
    stop, failures, seen = threading.Event(), list[BaseException](), set[int]()

    def ask() -> None:
        try:
            while not stop.is_set():
                with manager.leased("ner-en") as loaded:
                    (prediction,) = loaded.model.predict([TEXT])
                    version = loaded.manifest.version
                    assert prediction.entities[1].label == {1: "ORG", 2: "LOC"}[version]
                    seen.add(version)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        manager.operations.activate("ner-en", 2, "me")
        until(lambda: 2 in seen or failures)
        manager.operations.activate("ner-en", 1, "me")
        until(lambda: 1 in seen or failures)
        seen.clear()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_pinned_version_is_loaded_for_the_request_that_pins_it(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    assert not holds(manager, 2)
    assert served(manager, "ner-en", 2) == 2
    assert holds(manager, 2)
    assert states(manager) == {1: "serving", 2: "loaded"}
    assert served(manager) == 1


def test_a_pinned_version_that_fails_is_refused(models_dir: Path, manager: VersionManager) -> None:
    edit_manifest(write_tiny_version(models_dir, version=2), format_version=9)
    with pytest.raises(VersionRefused, match=r"ner-en/2: manifest\.json has format_version 9"):
        served(manager, "ner-en", 2)


def test_the_least_recently_pinned_version_makes_room(models_dir: Path, manager: VersionManager) -> None:
    for version in (2, 3, 4):
        write_tiny_version(models_dir, version=version)
    for version in (2, 3, 2, 4):
        assert served(manager, "ner-en", version) == version
    assert [holds(manager, version) for version in (1, 2, 3, 4)] == [True, True, False, True]


def test_a_pinned_version_that_is_activated_is_not_loaded_again(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    with manager.leased("ner-en", 2) as pinned:
        manager.operations.activate("ner-en", 2, "me")
        with manager.leased("ner-en") as stable:
            assert stable is pinned


# its own life


def test_started_it_follows_folder_and_state_until_it_is_closed(models_dir: Path, make: Make) -> None:
    manager = make()
    manager.start()
    until(lambda: manager.ready("ner-en"))
    write_tiny_version(models_dir, version=2)
    until(lambda: states(manager).get(2) == "ready")
    write_state(manager, json.dumps({"stable": 2, "previous": 1, "generation": 7}))
    until(lambda: served(manager) == 2)
    held: list[LoadedVersion] = []
    with manager.leased("ner-en") as loaded:
        held.append(loaded)
    manager.close()
    assert not held[0].model.alive
    assert not manager.ready("ner-en")


def test_swaps_and_loads_are_counted(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2)
    edit_manifest(write_tiny_version(models_dir, version=3), format_version=9)
    manager.operations.activate("ner-en", 2, "me")
    with pytest.raises(VersionRefused):
        manager.operations.activate("ner-en", 3, "me")
    assert metric(manager, "nerve_model_swap_total", outcome="swapped") == 2
    assert metric(manager, "nerve_model_swap_total", outcome="refused") == 1
    assert metric(manager, "nerve_model_load_seconds_count", outcome="loaded") == 4  # each is tried first
    assert metric(manager, "nerve_model_load_seconds_count", outcome="refused") == 1
    assert metric(manager, "nerve_model_info", version="2", provider="CPUExecutionProvider") == 1


def test_a_failure_of_the_watch_does_not_end_it(
    models_dir: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (models_dir / ".state").mkdir()
    (models_dir / ".state/ner-en.json").mkdir()
    manager = make()
    manager.start()
    until(lambda: manager.ready("ner-en"))
    (models_dir / ".state/ner-en.json").rmdir()
    until(lambda: manager.store.read("ner-en"))
    assert served(manager) == 1
