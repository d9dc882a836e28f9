import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.lifecycle.deployment import (
    Deployment,
    DeploymentStore,
    StateUnreadable,
    StateUnwritable,
)


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
    assert names <= {"ner-en.json", ".ner-en.lock"}
    assert set(json.loads(store.path("ner-en").read_text())) == {"stable", "previous", "generation"}


def test_writers_in_several_processes_follow_one_another(store: DeploymentStore) -> None:
    program = """
import sys
from pathlib import Path
from app.lifecycle.deployment import DeploymentStore
store = DeploymentStore(Path(sys.argv[1]))
for _ in range(8):
    store.edit("ner-en", lambda d: d.with_stable((d.stable or 0) + 1))
"""
    folder = str(store.path("ner-en").parent)
    writers = [subprocess.Popen([sys.executable, "-c", program, folder]) for _ in range(2)]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    assert store.read("ner-en") == Deployment(stable=16, previous=15, generation=16)
