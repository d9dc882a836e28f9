"""What is served on real folders. Each reconciliation is asked for by the test itself."""

import json
import shutil
from pathlib import Path

import pytest

from app.errors import InferenceFailed, NotReady, VersionRefused
from app.versions.rollout.desired import AbortRule, Canary, Deployment, DeploymentChange, Shadow
from app.versions.rollout.manager import VersionManager
from app.versions.rollout.store import StateUnreadable, StateUnwritable
from app.versions.storage.repository import RepositoryUnreadable
from tests.bad_versions import BAD_FOLDERS
from tests.faults import no_descriptors, no_processes
from tests.managers import Make, follow, leased, metric, served, states, write_state
from tests.servers import until
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
    follow(manager)
    assert served(manager) == 2
    assert manager.store.read("ner-en") == Deployment(stable=2, generation=1)


def test_a_new_version_is_checked_and_does_not_serve_by_itself(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    follow(manager)
    assert served(manager) == 1
    assert states(manager) == {1: "serving", 2: "ready"}


def test_the_state_says_what_serves(models_dir: Path, make: Make) -> None:
    write_tiny_version(models_dir, version=2)
    manager = make()
    write_state(manager, '{"stable": 1}')
    follow(manager)
    assert served(manager) == 1


def test_a_state_that_another_process_changed_is_followed(models_dir: Path, make: Make) -> None:
    write_tiny_version(models_dir, version=2)
    manager, other = make(), make()
    follow(manager)
    other.operations.activate("ner-en", 1, "me")
    follow(manager)
    assert served(manager) == 1
    other.operations.rollback("ner-en", "me")
    follow(manager)
    assert served(manager) == 2


def test_a_stable_version_that_fails_at_the_start_falls_back_to_previous(
    models_dir: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_version(models_dir, version=2)
    write_tiny_version(models_dir, version=3)
    edit_manifest(models_dir / "ner-en/3", format_version=9)
    manager = make()
    write_state(manager, '{"stable": 3, "previous": 1, "generation": 4}')
    follow(manager)
    assert served(manager) == 1
    assert manager.store.read("ner-en") == Deployment(stable=3, previous=1, generation=4)
    assert "ner-en/3: manifest.json has format_version 9" in caplog.text


def test_the_stable_version_serves_as_soon_as_it_passes(models_dir: Path, make: Make) -> None:
    folder = write_tiny_version(models_dir, version=2)
    edit_manifest(folder, format_version=9)
    manager = make()
    write_state(manager, '{"stable": 2, "previous": 1}')
    follow(manager)
    assert served(manager) == 1
    edit_manifest(folder, format_version=1)
    follow(manager)
    assert served(manager) == 2


def test_nothing_that_passes_is_not_ready_and_says_why(models_dir: Path, make: Make) -> None:
    edit_manifest(models_dir / "ner-en/1", format_version=9)
    manager = make()
    follow(manager)
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
    follow(manager)
    assert served(manager) == 1
    assert served(manager, "other") == 5
    with pytest.raises(NotReady):
        served(manager, "broken")


def test_a_version_whose_golden_text_fails_stops_no_other_model(models_dir: Path, make: Make) -> None:
    folder = write_tiny_version(models_dir, "a-broken-one")
    edit_manifest(folder, golden=[{"text": POISON, "entities": []}])
    manager = make()
    follow(manager)
    assert served(manager) == 1


# bad folders


@pytest.mark.parametrize("bad", BAD_FOLDERS)
def test_a_bad_folder_is_refused_while_the_old_version_serves_and_is_ready_once_mended(
    models_dir: Path, manager: VersionManager, bad: str
) -> None:
    spoil, _ = BAD_FOLDERS[bad]
    folder = write_tiny_version(models_dir, version=7)
    spoil(folder)
    follow(manager)
    assert states(manager) == {1: "serving", 7: "refused"}
    assert reason(manager, 7).startswith("ner-en/7: ")
    with pytest.raises(VersionRefused):
        manager.operations.activate("ner-en", 7, "me")
    assert served(manager) == 1
    assert manager.store.read("ner-en") == Deployment(stable=1, generation=1)

    shutil.rmtree(folder)
    write_tiny_version(models_dir, version=7)
    follow(manager)
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
        follow(manager)
        seen.append(states(manager)[2])
        content = (whole / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        follow(manager)
        seen.append(states(manager)[2])
        (folder / name).write_bytes(content)
    follow(manager)
    assert seen == ["refused"] * 6
    assert states(manager)[2] == "ready"


def test_a_refusal_is_logged_once(
    models_dir: Path, manager: VersionManager, caplog: pytest.LogCaptureFixture
) -> None:
    edit_manifest(write_tiny_version(models_dir, version=2), format_version=9)
    for _ in range(3):
        follow(manager)
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
        follow(manager)
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
        follow(manager)
    assert caplog.text.count("ner-en.json: not a deployment") == 2


def test_with_a_torn_state_a_start_serves_the_highest_version_and_writes_nothing(
    models_dir: Path, make: Make
) -> None:
    write_tiny_version(models_dir, version=2)
    manager = make()
    write_state(manager, '{"stable"')
    follow(manager)
    assert served(manager) == 2
    assert manager.store.path("ner-en").read_text() == '{"stable"'


def test_a_state_that_names_a_version_which_is_not_there_is_reported(
    manager: VersionManager, caplog: pytest.LogCaptureFixture
) -> None:
    write_state(manager, '{"stable": 9}')
    follow(manager)
    assert served(manager) == 1
    assert "ner-en: should serve 9: it is not there" in caplog.text


def test_without_a_folder_to_write_in_it_serves_all_the_same(
    models_dir: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (models_dir / ".state").write_text("a file where the folder should be")
    manager = make()
    follow(manager)
    assert served(manager) == 1
    write_tiny_version(models_dir, version=2)
    with pytest.raises((StateUnwritable, StateUnreadable)):
        manager.operations.activate("ner-en", 2, "me")
    assert served(manager) == 1


# what fails


def fail(manager: VersionManager, version: int | None = None) -> None:
    """Let three batches in a row fail."""
    with leased(manager, "ner-en", version) as loaded:
        for _ in range(3):
            with pytest.raises(InferenceFailed):
                loaded.model.predict([POISON])
        assert loaded.model.failing


def taken_out(manager: VersionManager, version: int) -> float:
    return metric(manager, "nerve_model_taken_out_total", version=str(version))


def test_what_fails_is_taken_out_and_the_version_before_comes_back(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    manager.operations.activate("ner-en", 2, "me")
    fail(manager)
    follow(manager)
    assert served(manager) == 1
    assert states(manager)[2] == "refused"
    assert "activate it to try again" in reason(manager, 2)
    assert taken_out(manager, 2) == 1
    follow(manager)
    assert manager.store.read("ner-en") == Deployment(stable=1, generation=3)
    manager.operations.activate("ner-en", 2, "me")
    assert served(manager) == 2


def test_what_fails_and_cannot_be_replaced_gets_one_new_session(
    models_dir: Path, manager: VersionManager, caplog: pytest.LogCaptureFixture
) -> None:
    fail(manager)
    with leased(manager) as before:
        follow(manager)
        with leased(manager) as after:
            assert after is not before
            assert not after.model.failing
    until(lambda: not before.model.alive)
    follow(manager)
    with leased(manager) as later:
        assert later is after
    assert taken_out(manager, 1) == 1
    assert caplog.text.count("failed on three batches in a row while it served\n") == 1
    assert manager.store.read("ner-en") == Deployment(stable=1, generation=1)


def test_what_fails_serves_on_where_its_folder_is_gone(models_dir: Path, manager: VersionManager) -> None:
    fail(manager)
    shutil.rmtree(models_dir / "ner-en/1")
    for _ in range(2):
        follow(manager)
        assert served(manager) == 1
    assert "the folder of ner-en/1 is gone" in (manager.problem("ner-en") or "")
    assert taken_out(manager, 1) == 0


def test_a_pinned_version_that_fails_is_closed(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2)
    fail(manager, 2)
    with leased(manager, "ner-en", 2) as pinned:
        follow(manager)
        assert pinned.model.alive
    until(lambda: not pinned.model.alive)
    assert states(manager) == {1: "serving", 2: "ready"}
    assert taken_out(manager, 2) == 0


def test_what_was_refused_is_tried_once_a_generation(models_dir: Path, manager: VersionManager) -> None:
    edit_manifest(write_tiny_version(models_dir, version=2), format_version=9)

    def tries() -> float:
        return metric(manager, "nerve_model_load_seconds_count", outcome="refused")

    for generation in (5, 6):
        before = tries()
        write_state(manager, json.dumps({"stable": 2, "previous": 1, "generation": generation}))
        for _ in range(3):
            follow(manager)
        assert served(manager) == 1
        assert tries() == before + 1
    assert "should serve 2: ner-en/2: manifest.json has format_version 9" in (
        manager.problem("ner-en") or ""
    )


def test_a_change_that_cannot_be_written_leaves_nothing_loaded(
    models_dir: Path, manager: VersionManager
) -> None:
    for version in (2, 3, 4):
        write_tiny_version(models_dir, version=version)
    lock = models_dir / ".state/.ner-en.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    change = DeploymentChange(
        stable=2, canary=Canary(version=3, percent=5), shadow=(Shadow(version=4, percent=5),)
    )
    with pytest.raises(StateUnwritable):
        manager.operations.deploy("ner-en", change, "me")
    assert served(manager) == 1
    assert states(manager) == {1: "serving", 2: "ready", 3: "ready", 4: "ready"}
    for version in ("2", "3", "4"):
        until(lambda v=version: metric(manager, "nerve_model_info", version=v) == 0)  # type: ignore[misc]
    lock.rmdir()
    manager.operations.deploy("ner-en", change, "me")
    assert states(manager) == {1: "ready", 2: "serving", 3: "canary", 4: "shadow"}


def test_a_canary_ends_by_its_rule(models_dir: Path, manager: VersionManager) -> None:
    write_tiny_version(models_dir, version=2)
    rule = AbortRule(requests=10, errors=1)
    change = DeploymentChange(canary=Canary(version=2, percent=100, abort=rule))
    manager.operations.deploy("ner-en", change, "me")
    for failed in [None] * 20 + [True] * 10:
        lease = manager.lease("ner-en")
        assert lease
        assert lease.loaded.manifest.version == 2
        follow(manager)
        lease.release(failed)
    follow(manager)
    assert states(manager) == {1: "serving", 2: "ready"}
    assert manager.store.read("ner-en") == Deployment(stable=1, generation=3)
    assert metric(manager, "nerve_canary_aborts_total", version="2", reason="errors") == 1


# what is not a version's fault


def test_what_could_not_be_checked_is_not_refused_and_nothing_is_written_because_of_it(
    models_dir: Path, make: Make
) -> None:
    manager = make()
    manager.check()  # version 1 passes before the fault begins
    write_tiny_version(models_dir, version=2)
    with no_processes():
        for _ in range(2):
            follow(manager)
            assert served(manager) == 1
    assert states(manager)[2] in ("found", "unchecked")
    problem = manager.problem("ner-en") or ""
    assert "should serve 2: ner-en/2: was not checked" in problem
    assert problem.endswith("; 1 serves")
    assert manager.store.read("ner-en") is None
    until(lambda: (follow(manager), served(manager) == 2)[1])
    assert manager.problem("ner-en") is None
    (change,) = manager.store.history("ner-en")
    assert (change.deployment.stable, change.action) == (2, "start")
    assert change.by == "nerve: found no state, and this is the best version that passes its checks"


def test_an_operator_is_told_that_a_version_could_not_be_checked(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    with no_processes(), pytest.raises(NotReady, match="was not checked"):
        manager.operations.activate("ner-en", 2, "me")
    assert manager.store.read("ner-en") == Deployment(stable=1, generation=1)
    manager.operations.activate("ner-en", 2, "me")
    assert served(manager) == 2


def test_a_named_version_that_could_not_be_checked_serves_as_soon_as_it_can(
    models_dir: Path, make: Make
) -> None:
    manager = make()
    manager.check()
    write_tiny_version(models_dir, version=2)
    write_state(manager, '{"stable": 2, "previous": 1}')
    with no_processes():
        follow(manager)
    assert served(manager) == 1
    assert manager.store.read("ner-en") == Deployment(stable=2, previous=1)
    until(lambda: (follow(manager), served(manager) == 2)[1])


def test_without_descriptors_what_serves_goes_on_and_nothing_counts_as_missing(
    models_dir: Path, manager: VersionManager
) -> None:
    write_tiny_version(models_dir, version=2)
    manager.check()
    with no_descriptors():
        manager.reconcile()
        assert manager.names() == ["ner-en"]
        assert states(manager) == {1: "serving", 2: "ready"}
        assert "cannot be read now" in (manager.problem("ner-en") or "")
        with pytest.raises((RepositoryUnreadable, StateUnreadable, StateUnwritable)):
            manager.operations.activate("ner-en", 2, "me")
        assert served(manager) == 1
    manager.reconcile()
    assert manager.problem("ner-en") is None
    manager.operations.activate("ner-en", 2, "me")
    assert served(manager) == 2


def test_before_anything_serves_a_folder_that_cannot_be_read_is_no_unknown_model(make: Make) -> None:
    manager = make()
    with no_descriptors():
        manager.reconcile()
        with pytest.raises(NotReady, match="cannot be read now"):
            served(manager)
    follow(manager)
    assert served(manager) == 1


def test_a_folder_of_what_serves_that_is_gone_is_reported_once(
    models_dir: Path, manager: VersionManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(models_dir / "ner-en/1", tmp_path / "kept")
    write_tiny_version(models_dir, version=2)
    for times in (1, 2):
        shutil.rmtree(models_dir / "ner-en/1")
        for _ in range(2):
            follow(manager)
        assert served(manager) == 1
        assert "the folder of ner-en/1 is gone" in (manager.problem("ner-en") or "")
        assert caplog.text.count("is gone") == times
        shutil.copytree(tmp_path / "kept", models_dir / "ner-en/1")
        follow(manager)
        assert manager.problem("ner-en") is None
    shutil.rmtree(models_dir / "ner-en/1")
    follow(manager)
    manager.operations.activate("ner-en", 2, "me")
    assert manager.workers.lagging("ner-en", 2) == []
    follow(manager)
    assert manager.problem("ner-en") is None


def test_what_could_not_be_checked_is_not_tried_at_every_look(models_dir: Path, make: Make) -> None:
    manager = make()
    manager.check()
    write_tiny_version(models_dir, version=2)
    write_state(manager, '{"stable": 2, "previous": 1}')
    with no_processes():
        for _ in range(5):
            follow(manager)
    tried = metric(manager, "nerve_model_load_seconds_count", outcome="undecided")
    assert tried == 1
    assert states(manager)[2] == "unchecked"
