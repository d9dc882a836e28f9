"""Loading: a version serves only if everything about it is right, and a refusal says what is not."""

import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.engine.priority import LOWEST
from app.engine.runtimes.session import CPU
from app.errors import NotChecked, VersionRefused
from app.manifest import MAX_FILES
from app.versions.loading.loaded import MemberVariants
from app.versions.loading.loader import Loader, Report, load_single, load_version
from app.versions.loading.options import LoadOptions
from tests.bad_versions import BAD_FOLDERS, golden, relist, weights_beside
from tests.servers import until
from tests.teams import BAD_TEAMS, team_of_itself, team_of_teams, write_team
from tests.tiny import (
    SPANS,
    TEXT,
    write_tiny_version,
)

ONE_THREAD = LoadOptions(threads=1)


@pytest.mark.parametrize("bad", BAD_FOLDERS)
def test_a_bad_folder_is_refused_with_the_reason(tmp_path: Path, bad: str) -> None:
    spoil, reason = BAD_FOLDERS[bad]
    folder = write_tiny_version(tmp_path, version=7)
    spoil(folder)
    with pytest.raises(VersionRefused, match=reason) as refused:
        load_version(folder, ONE_THREAD)
    assert refused.value.message.startswith("ner-en/7: ")
    assert (refused.value.code, refused.value.kind) == ("version_refused", "refused")


def test_a_good_folder_is_ready_to_run(models_dir: Path) -> None:
    loaded = load_version(models_dir / "ner-en/1", ONE_THREAD)
    (prediction,) = loaded.model.predict([TEXT])
    assert [(e.start, e.end, e.label) for e in prediction.entities] == SPANS
    assert (loaded.manifest.version, loaded.variant.precision) == (1, "fp32")
    assert (loaded.provider, loaded.threads) == (CPU, 1)
    loaded.model.close()


def spans_of(folder: Path) -> list[tuple[int, int, str]]:
    """What a version, once loaded, finds."""
    loaded = load_version(folder, ONE_THREAD)
    (prediction,) = loaded.model.predict([TEXT])
    loaded.model.close()
    return [(e.start, e.end, e.label) for e in prediction.entities]


def test_a_link_inside_the_folder_is_fine(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / "model.fp32.onnx").rename(folder / "graph.onnx")
    (folder / "model.fp32.onnx").symlink_to("graph.onnx")
    assert spans_of(folder) == SPANS


def test_a_version_folder_may_itself_be_a_link(models_dir: Path, tmp_path: Path) -> None:
    shutil.move(models_dir / "ner-en/1", tmp_path / "elsewhere")
    (models_dir / "ner-en/1").symlink_to(tmp_path / "elsewhere")
    assert spans_of(models_dir / "ner-en/1") == SPANS


def test_every_batch_is_reported(models_dir: Path) -> None:
    reports: list[Any] = []
    loaded = load_version(models_dir / "ner-en/1", ONE_THREAD, reports.append)
    loaded.model.predict([TEXT])
    loaded.model.close()
    assert reports


# ensembles


@pytest.mark.parametrize("method", ["mean", "vote"])
def test_an_ensemble_loads_its_members_and_answers(models_dir: Path, method: str) -> None:
    loaded = load_version(write_team(models_dir, method), LoadOptions(threads=6))
    (prediction,) = loaded.model.predict([TEXT])
    assert [(e.start, e.end, e.label) for e in prediction.entities] == SPANS
    assert [e.agreement for e in prediction.entities] == [1.0, pytest.approx(2 / 3), 1.0]
    assert isinstance(loaded.variant, MemberVariants)
    assert [variant.file for variant in loaded.variant.variants] == ["model.fp32.onnx"] * 3
    assert (loaded.variant.precision, loaded.provider, loaded.threads) == ("fp32", CPU, 6)
    loaded.model.close()
    assert not loaded.model.alive


def test_every_member_has_a_thread(models_dir: Path) -> None:
    loaded = load_version(write_team(models_dir), ONE_THREAD)
    assert loaded.threads == 3
    loaded.model.close()


def test_batches_of_all_members_are_reported(models_dir: Path) -> None:
    reports: list[Any] = []
    loaded = load_version(write_team(models_dir), ONE_THREAD, reports.append)
    reports.clear()
    loaded.model.predict([TEXT])
    loaded.model.close()
    assert len(reports) == 3


def test_one_network_is_not_an_ensemble(models_dir: Path) -> None:
    folder = write_team(models_dir)
    with pytest.raises(VersionRefused, match=r"team/1: is an ensemble.*one of its members \(ner-en/1,"):
        load_single(folder, ONE_THREAD)
    load_single(models_dir / "ner-en/1", ONE_THREAD).model.close()


@pytest.mark.parametrize("bad", BAD_TEAMS)
def test_an_ensemble_is_refused_with_the_reason(models_dir: Path, bad: str) -> None:
    spoil, reason = BAD_TEAMS[bad]
    folder = write_team(models_dir)
    spoil(models_dir)
    with pytest.raises(VersionRefused, match=reason) as refused:
        load_version(folder, ONE_THREAD)
    assert refused.value.message.startswith("team/1: member ner-en/2")


def test_an_ensemble_of_ensembles_is_refused(models_dir: Path) -> None:
    team_of_teams(models_dir)
    with pytest.raises(VersionRefused, match="team/1: member team/2 is an ensemble itself"):
        load_version(models_dir / "team/1", ONE_THREAD)


def test_an_ensemble_of_itself_is_refused(models_dir: Path) -> None:
    team_of_itself(models_dir)
    with pytest.raises(VersionRefused, match=r"team/1: .*an ensemble cannot be a member of itself; name"):
        load_version(models_dir / "team/1", ONE_THREAD)


def test_ensembles_that_name_each_other_are_refused(models_dir: Path) -> None:
    for name, other in (("team", "crew"), ("crew", "team")):
        members = ["ner-en/1", f"{other}/1"]
        hashes = dict.fromkeys(members, "0" * 64)
        folder = write_team(models_dir, name=name, members=members, member_hashes=hashes)
        folder.rename(models_dir / f"{name}-1")
    for name in ("team", "crew"):
        (models_dir / name).mkdir(exist_ok=True)
        (models_dir / f"{name}-1").rename(models_dir / name / "1")
    with pytest.raises(VersionRefused, match="team/1: member crew/1 is an ensemble itself; name its"):
        load_version(models_dir / "team/1", ONE_THREAD)


def test_an_ensemble_is_checked_against_its_own_golden_texts(models_dir: Path) -> None:
    folder = write_team(models_dir, golden=golden("IBM", (0, 3, "PER")))
    before = threading.active_count()
    with pytest.raises(VersionRefused, match=r"team/1: golden text 'IBM' gave .*ORG"):
        load_version(folder, ONE_THREAD)
    assert threading.active_count() == before


def test_versions_of_a_model_run_as_the_first_was_found_to_run_best(models_dir: Path) -> None:
    """Measured again it would be chance, with a network of a few microseconds."""
    write_tiny_version(models_dir, "ner-en", 2)
    loader = Loader(LoadOptions(threads=4))
    found = []
    for number in range(8):
        loaded = loader.load(models_dir / "ner-en" / str(1 + number % 2))
        found.append((loaded.runs, loaded.threads))
        loaded.close()
    assert len(set(found)) == 1


def test_a_members_batches_are_reported_under_its_own_name(models_dir: Path) -> None:
    batches = Counter[str]()

    def report(model: str, version: int) -> Report:
        return lambda batch: batches.update([f"{model}/{version}"])

    loaded = Loader(ONE_THREAD, report).load(write_team(models_dir))
    batches.clear()
    loaded.model.predict([TEXT])
    loaded.close()
    assert batches == {"ner-en/1": 1, "ner-en/2": 1, "other/1": 1}


def test_members_may_lie_elsewhere(models_dir: Path, tmp_path: Path) -> None:
    folder = write_team(models_dir)
    staged = tmp_path / "staged/team/1"
    staged.parent.mkdir(parents=True)
    folder.rename(staged)
    loader = Loader(ONE_THREAD)
    with pytest.raises(VersionRefused, match="team/1: member ner-en/1 is not there"):
        loader.load(staged)
    loader.load(staged, models=models_dir).close()


def test_a_member_that_is_removed_while_an_ensemble_is_loaded_is_named(models_dir: Path) -> None:
    folder = write_team(models_dir)

    def report(model: str, version: int) -> Report:  # is asked for once the first member's files are read
        shutil.rmtree(models_dir / "other/1", ignore_errors=True)
        return lambda batch: None

    before = threading.active_count()
    reason = "team/1: member other/1: its folder was removed while it was being loaded; copy it to"
    with pytest.raises(VersionRefused, match=reason):
        Loader(ONE_THREAD, report).load(folder)
    assert threading.active_count() == before


def test_a_folder_that_comes_and_goes_is_loaded_or_refused(models_dir: Path, tmp_path: Path) -> None:
    folder, loader, stop = models_dir / "ner-en/1", Loader(ONE_THREAD), threading.Event()
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
            loader.load(folder).close()
        except VersionRefused as refused:
            reasons.add(refused.message)
    stop.set()
    disturber.join()
    assert reasons
    assert all(reason.startswith("ner-en/1: ") for reason in reasons)


def test_only_signed_versions_are_loaded_where_keys_are_trusted(models_dir: Path, tmp_path: Path) -> None:
    options = LoadOptions(threads=1, trusted_keys=(tmp_path / "nowhere.pem",))
    with pytest.raises(NotChecked, match=r"ner-en/1: .*nowhere\.pem"):
        load_version(models_dir / "ner-en/1", options)


# what was checked is what is loaded


def test_weights_may_lie_in_a_file_that_the_manifest_lists(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    weights_beside(folder)
    assert spans_of(folder) == SPANS


def test_weights_in_a_file_that_is_not_listed_are_not_found(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models_dir / "ner-en/1"
    weights_beside(folder)
    weights = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").unlink()
    relist(folder)
    (folder / "weights.bin").write_bytes(weights)
    monkeypatch.chdir(folder)
    with pytest.raises(VersionRefused, match="ner-en/1: cannot be loaded"):
        load_version(folder, ONE_THREAD)


def test_a_file_that_is_exchanged_after_it_was_checked_is_not_loaded(
    models_dir: Path, tmp_path: Path
) -> None:
    other = write_tiny_version(tmp_path / "others", ibm="PER")
    code = (
        "import os, sys; from pathlib import Path\n"
        "from app.versions.loading.loader import load_version\n"
        "from app.versions.loading.options import LoadOptions\n"
        "folder, other = map(Path, sys.argv[1:])\n"
        "def exchange(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('tokenizer.json') and other.exists():\n"
        "        other.replace(folder / 'model.fp32.onnx')\n"  # which was read before the tokenizer
        "sys.addaudithook(exchange)\n"
        "loaded = load_version(folder, LoadOptions(threads=2))\n"
        "assert not other.exists()\n"
        "print(loaded.model.predict(['IBM'])[0].entities[0].label)\n"
        "loaded.close()\n"
    )
    folder = models_dir / "ner-en/1"
    command = [sys.executable, "-c", code, str(folder), str(other / "model.fp32.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "ORG\n", done.stderr


def test_a_folder_with_very_many_files_is_refused(models_dir: Path) -> None:
    for number in range(MAX_FILES):
        (models_dir / f"ner-en/1/{number}").touch()
    with pytest.raises(VersionRefused, match="ner-en/1: holds more than 1000 files and folders"):
        load_version(models_dir / "ner-en/1", ONE_THREAD)


# in the background


@pytest.mark.skipif(sys.platform != "linux", reason="a priority of a thread is Linux's")
@pytest.mark.parametrize("background", [True, False])
def test_in_the_background_every_thread_gives_way(models_dir: Path, background: bool) -> None:
    before, ours = set(threading.enumerate()), priority(threading.current_thread())
    loaded = Loader(LoadOptions(threads=2)).load(write_team(models_dir), background=background)
    loaded.model.predict([TEXT])
    threads = set(threading.enumerate()) - before
    assert len(threads) >= 3
    until(lambda: {priority(thread) for thread in threads} == {LOWEST if background else ours})
    assert loaded.threads == 3
    assert priority(threading.current_thread()) == ours
    loaded.close()


def priority(thread: threading.Thread) -> int:
    """A thread's nice value."""
    return os.getpriority(os.PRIO_PROCESS, thread.native_id or 0)
