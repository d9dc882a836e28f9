import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from app.errors import NotFound, NotReady
from app.manifest import MANIFEST, MAX_BYTES, MAX_FILES
from app.versions.storage.repository import CROWDED, Repository, fingerprint, read_members
from tests.tiny import write_tiny_version


@pytest.fixture
def repository(models_dir: Path) -> Repository:
    write_tiny_version(models_dir, version=10)
    write_tiny_version(models_dir, version=2)
    write_tiny_version(models_dir, "other", 3)
    return Repository(models_dir)


def test_versions_are_ordered_by_number(repository: Repository) -> None:
    assert repository.names() == ["ner-en", "other"]
    assert repository.versions("ner-en") == [1, 2, 10]


def test_anything_else_is_left_alone(repository: Repository) -> None:
    for name in (".state", "ner-en/.partial", "ner-en/04", "ner-en/0", "ner-en/v5", "Upper/1", "empty"):
        (repository.folder / name).mkdir(parents=True)
    (repository.folder / "ner-en/7").write_text("a file")
    assert repository.names() == ["ner-en", "other"]
    assert repository.versions("ner-en") == [1, 2, 10]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Repository(tmp_path / "nowhere").names() == []


@pytest.mark.parametrize("name", ["nope", "", "..", "../models/ner-en", "ner-en/1", ".state", "x\x00y"])
def test_an_unknown_name_is_not_found(repository: Repository, name: str) -> None:
    assert repository.versions(name) == []
    with pytest.raises(NotFound, match="there: ner-en, other") as error:
        repository.require(name)
    assert error.value.code == "unknown_model"


def test_an_unknown_version_is_not_found(repository: Repository) -> None:
    with pytest.raises(NotFound, match="ner-en has no version 3 \\(it has 1, 2, 10\\)") as error:
        repository.path("ner-en", 3)
    assert error.value.code == "unknown_version"


def test_a_fingerprint_changes_with_the_folder(repository: Repository) -> None:
    folder = repository.path("ner-en", 2)
    seen = [repository.fingerprint("ner-en", 2)]
    assert repository.fingerprint("ner-en", 2) == seen[0]
    (folder / "README.md").write_text("new")
    seen.append(repository.fingerprint("ner-en", 2))
    (folder / "README.md").write_text("longer")
    seen.append(repository.fingerprint("ner-en", 2))
    (folder / "README.md").unlink()
    (folder / "link").symlink_to("nowhere")
    seen.append(repository.fingerprint("ner-en", 2))
    assert len(set(seen[:3])) == 3
    assert seen[3] == seen[0]


def test_an_ensembles_fingerprint_changes_with_its_members(repository: Repository) -> None:
    team = repository.folder / "team/1"
    team.mkdir(parents=True)
    (team / MANIFEST).write_text(json.dumps({"members": ["ner-en/2", "new/1"]}))
    alone = fingerprint(team)
    seen = [repository.fingerprint("team", 1)]
    assert seen[0][: len(alone)] == alone
    (repository.folder / "ner-en/2/README.md").write_text("new")
    seen.append(repository.fingerprint("team", 1))
    write_tiny_version(repository.folder, "new")
    seen.append(repository.fingerprint("team", 1))
    shutil.rmtree(repository.folder / "ner-en/2")
    seen.append(repository.fingerprint("team", 1))
    (team / MANIFEST).write_text(json.dumps({"members": ["new/1"]}))
    seen.append(repository.fingerprint("team", 1))
    assert len(set(seen)) == 5
    assert {name.partition("/")[0] for name, *_ in seen[-1]} == {MANIFEST, "new"}


@pytest.mark.parametrize(
    "manifest",
    ["", "[1]", '{"members": 3}', '{"members": [3, "../other/3", "/", "other/3/.."]}', "[" * 9999],
)
def test_a_manifest_that_names_no_members_has_a_fingerprint_of_its_own(
    repository: Repository, manifest: str
) -> None:
    team = repository.folder / "team/1"
    team.mkdir(parents=True)
    (team / MANIFEST).write_text(manifest)
    assert repository.fingerprint("team", 1) == fingerprint(team)


def test_the_fingerprint_of_a_folder_that_went_away_is_empty(repository: Repository) -> None:
    shutil.rmtree(repository.folder / "ner-en/2")
    assert repository.fingerprint("ner-en", 2) == ()


def test_of_a_folder_with_very_many_files_only_that_is_known(repository: Repository) -> None:
    folder = repository.path("ner-en", 2)
    for number in range(MAX_FILES):
        (folder / f"{number:05}").touch()
    crowded = repository.fingerprint("ner-en", 2)
    assert crowded == ((CROWDED, MAX_FILES, folder.stat().st_mtime_ns),)
    (folder / "00000").unlink()
    assert repository.fingerprint("ner-en", 2) != crowded


def test_a_loop_of_links_is_passed_by(repository: Repository) -> None:
    folder = repository.path("ner-en", 2)
    before = len(fingerprint(folder))
    (folder / "self").symlink_to("self")
    (folder / "deep").mkdir()
    (folder / "deep/up").symlink_to("..")
    assert len(fingerprint(folder)) == before + 2


def test_members_are_found_without_reading_what_is_no_manifest(repository: Repository) -> None:
    team = repository.folder / "team/1"
    team.mkdir(parents=True)
    path = team / MANIFEST
    path.write_text(json.dumps({"members": ["ner-en/2", "other/3"], "weights": [1, 2]}, indent=1))
    assert read_members(team) == ("ner-en/2", "other/3")
    path.write_bytes(b'{"members": ["ner-en/2"]}' + b" " * MAX_BYTES)
    assert read_members(team) == ()
    path.unlink()
    os.mkfifo(path)
    assert read_members(team) == ()
    assert len(repository.fingerprint("team", 1)) == 1


def test_where_a_folder_cannot_be_read_its_versions_are_not_gone(repository: Repository) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, before[1]))
        try:
            for call in (repository.names, lambda: repository.fingerprint("ner-en", 2)):
                with pytest.raises(NotReady, match="cannot be read: Too many open files"):
                    call()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
