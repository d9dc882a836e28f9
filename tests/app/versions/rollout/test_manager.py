"""Leases, pinned versions and a life of its own: the manager on real folders."""

import json
import logging
import threading
from pathlib import Path

import pytest

from app.errors import VersionRefused
from app.versions.loading.loaded import LoadedVersion
from app.versions.rollout.manager import VersionManager
from tests.managers import Make, leased, metric, served, states, write_state
from tests.servers import until
from tests.tiny import TEXT, edit_manifest, write_tiny_version


def holds(manager: VersionManager, version: int) -> bool:
    """Whether a version is loaded for requests that pin it."""
    lease = manager.lease("ner-en", version)
    if lease:
        lease.release()
    return lease is not None


# leases


def test_a_lease_keeps_its_version_through_a_swap(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2, ibm="LOC")
    with leased(manager, "ner-en") as old:
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
    with leased(manager, "ner-en") as old:
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
                with leased(manager, "ner-en") as loaded:
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
    with leased(manager, "ner-en", 2) as pinned:
        manager.operations.activate("ner-en", 2, "me")
        with leased(manager, "ner-en") as stable:
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
    with leased(manager, "ner-en") as loaded:
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
