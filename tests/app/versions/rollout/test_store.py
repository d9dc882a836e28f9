import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import NotFound
from app.versions.rollout.desired import Deployment
from app.versions.rollout.store import (
    DeploymentStore,
    GenerationChanged,
    StateUnreadable,
    StateUnwritable,
    version_to_serve,
)
from app.versions.storage.repository import Repository
from tests.faults import no_descriptors


@pytest.fixture
def store(tmp_path: Path) -> DeploymentStore:
    return DeploymentStore(tmp_path / "state")


def test_what_is_written_is_read(store: DeploymentStore) -> None:
    assert store.edit("ner-en", lambda d: d.with_stable(2)) == Deployment(stable=2, generation=1)
    assert store.read("ner-en") == Deployment(stable=2, generation=1)
    assert store.read("other") is None


def test_the_version_before_becomes_previous(store: DeploymentStore) -> None:
    for version in (1, 2, 3):
        store.edit("ner-en", lambda d, version=version: d.with_stable(version))
    assert store.read("ner-en") == Deployment(stable=3, previous=2, generation=3)


def test_the_same_version_again_changes_nothing(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(2))
    before = store.path("ner-en").stat()
    store.edit("ner-en", lambda d: d.with_stable(2))
    after = store.path("ner-en").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "content", ["", '{"stable": 2, "prev', "[]", '{"stable": 0}', '{"stable": "x"}', '{"live": 1}', "\xff"]
)
def test_a_file_that_is_no_deployment_is_an_error_that_names_it(
    store: DeploymentStore, content: str
) -> None:
    store.edit("ner-en", lambda d: d.with_stable(2))
    store.path("ner-en").write_text(content, encoding="latin-1")
    with pytest.raises(StateUnreadable, match=r"ner-en\.json: not a deployment .* mend it, or delete it"):
        store.read("ner-en")
    with pytest.raises(StateUnreadable):
        store.edit("ner-en", lambda d: d.with_stable(3))
    assert store.path("ner-en").read_text(encoding="latin-1") == content


def test_a_change_that_fails_leaves_the_file_as_it_was(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(2))

    def fail(_: Deployment) -> Deployment:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.edit("ner-en", fail)
    assert store.read("ner-en") == Deployment(stable=2, generation=1)


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DeploymentStore(tmp_path / "file" / "state")
    with pytest.raises(StateUnwritable, match="NERVE_STATE_DIR"):
        store.edit("ner-en", lambda d: d.with_stable(2))


def test_nothing_but_the_state_is_left_behind(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(2))
    names = {path.name for path in store.path("ner-en").parent.iterdir()}
    assert names <= {"ner-en.json", "ner-en.history.jsonl", ".ner-en.lock"}
    fields = {"stable", "previous", "canary", "shadow", "generation"}
    assert set(json.loads(store.path("ner-en").read_text())) == fields


def test_a_file_of_an_older_nerve_is_read(store: DeploymentStore) -> None:
    store.folder.mkdir()
    store.path("ner-en").write_text('{"stable": 3, "previous": 2, "generation": 17}')
    assert store.read("ner-en") == Deployment(stable=3, previous=2, generation=17)


def test_writers_in_several_processes_follow_one_another(store: DeploymentStore) -> None:
    program = """
import sys
from pathlib import Path
from app.versions.rollout.store import DeploymentStore
store = DeploymentStore(Path(sys.argv[1]))
for _ in range(8):
    store.edit("ner-en", lambda d: d.with_stable((d.stable or 0) + 1))
"""
    folder = str(store.path("ner-en").parent)
    writers = [subprocess.Popen([sys.executable, "-c", program, folder]) for _ in range(2)]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    assert store.read("ner-en") == Deployment(stable=16, previous=15, generation=16)
    assert [change.deployment.generation for change in store.history("ner-en")] == [*range(1, 17)]


def test_an_edit_for_another_generation_changes_nothing(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(1))
    store.edit("ner-en", lambda d: d.with_stable(2), expected=1)
    with pytest.raises(GenerationChanged, match="generation 2 and the change is for 1; read it again"):
        store.edit("ner-en", lambda d: d.with_stable(3), expected=1)
    assert store.read("ner-en") == Deployment(stable=2, previous=1, generation=2)


def test_a_full_disk_changes_nothing(store: DeploymentStore) -> None:
    """A limit on the size of files makes the kernel stop a write in its middle, as a full disk does."""
    program = """
import resource, sys
from pathlib import Path
from app.versions.rollout.store import DeploymentStore, StateUnwritable
store = DeploymentStore(Path(sys.argv[1]))
store.edit("ner-en", lambda d: d.with_stable(1))
size = (store.folder / "ner-en.history.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    store.edit("ner-en", lambda d: d.with_stable(2))
except StateUnwritable as error:
    assert "free space" in error.message, error.message
else:
    sys.exit("it was written")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.edit("ner-en", lambda d: d.with_stable(3)).previous == 1
"""
    for room in (0, 50):
        folder = store.folder / str(room)
        run = subprocess.run(
            [sys.executable, "-c", program, str(folder), str(room)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        after = DeploymentStore(folder)
        assert after.read("ner-en") == Deployment(stable=3, previous=1, generation=2)
        assert [change.deployment.stable for change in after.history("ner-en")] == [1, 3]


def test_history_says_who_did_what(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(1), "user ada", "activate")
    store.edit("ner-en", lambda d: d.with_stable(2), "client 10.0.0.7", "deploy")
    found = store.history("ner-en")
    assert [(c.by, c.action, c.deployment.stable) for c in found] == [
        ("user ada", "activate", 1),
        ("client 10.0.0.7", "deploy", 2),
    ]
    assert store.history("other") == []


def test_a_change_by_hand_and_a_torn_line_show_in_the_history(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(1))
    store.path("ner-en").write_text('{"stable": 7, "generation": 1}')
    history = store.folder / "ner-en.history.jsonl"
    history.write_text(history.read_text() + '{"at": "2026-')
    store.edit("ner-en", lambda d: d.with_stable(2), "user ada", "activate")
    assert [(c.by, c.deployment.stable) for c in store.history("ner-en")] == [
        ("nerve", 1),
        ("unknown", 7),
        ("user ada", 2),
    ]


def test_the_desired_version_should_serve_or_else_the_highest(
    store: DeploymentStore, tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "models")
    for version in (1, 2, 10):
        (repository.folder / "ner-en" / str(version)).mkdir(parents=True)
    assert version_to_serve("ner-en", repository, store) == 10
    store.edit("ner-en", lambda d: d.with_stable(2))
    assert version_to_serve("ner-en", repository, store) == 2
    with pytest.raises(NotFound, match="no model 'other'"):
        version_to_serve("other", repository, store)


def test_a_history_is_cut_and_its_last_changes_stay(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(1))
    history = store.folder / "ner-en.history.jsonl"
    first = store.history("ner-en")[0]
    changes = [
        first.model_copy(update={"by": "x" * 50, "deployment": Deployment(stable=one, generation=one)})
        for one in range(1, 10_000)
    ]
    history.write_text("".join(change.model_dump_json() + "\n" for change in changes))
    store.path("ner-en").write_text(changes[-1].deployment.model_dump_json())
    assert len(store.history("ner-en")) < 10_000  # it reads no more than a part
    assert [change.deployment.stable for change in store.history("ner-en", 2)] == [9_998, 9_999]

    after = store.edit("ner-en", lambda d: d.with_stable(7), "user ada")
    assert after.generation == 10_000
    found = store.history("ner-en")
    assert [change.deployment.stable for change in found] == [*range(9_000, 10_000), 7]
    assert history.stat().st_size < 2**20
    store.path("ner-en").unlink()
    assert store.edit("ner-en", lambda d: d.with_stable(1)).generation == 10_001


def test_a_history_of_long_lines_is_cut_to_what_has_room(store: DeploymentStore) -> None:
    for version in range(1, 40):
        store.edit("ner-en", lambda d, v=version: d.with_stable(v), "x" * 60_000)
    history = store.folder / "ner-en.history.jsonl"
    assert history.stat().st_size < 2**20
    assert store.history("ner-en", 1)[0].deployment == store.read("ner-en")


def test_without_descriptors_nothing_is_taken_for_missing(store: DeploymentStore) -> None:
    store.edit("ner-en", lambda d: d.with_stable(2))
    with no_descriptors():
        with pytest.raises(StateUnreadable, match="cannot be read now"):
            store.read("ner-en")
        with pytest.raises(StateUnreadable, match="cannot be read now"):
            store.history("ner-en")
        with pytest.raises((StateUnwritable, StateUnreadable)):
            store.edit("ner-en", lambda d: d.with_stable(3))
    assert store.edit("ner-en", lambda d: d.with_stable(3)).generation == 2


def test_what_is_no_state_file_is_neither_waited_for_nor_read_whole(tmp_path: Path) -> None:
    store = DeploymentStore(tmp_path)
    os.mkfifo(store.path("pipe"))
    store.path("large").write_bytes(b"[" * 3_000_000)
    for name, said in (("pipe", "is no regular file"), ("large", "has 3000000 bytes, more than")):
        with pytest.raises(StateUnreadable, match=said):
            store.read(name)
    os.mkfifo(tmp_path / "ner-en.history.jsonl")
    with pytest.raises(StateUnreadable, match="is no regular file"):
        store.history("ner-en")
