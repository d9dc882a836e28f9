"""What operators do, on a manager of real folders."""

from pathlib import Path

import pytest

from app.errors import NotFound, VersionRefused
from app.versions.rollout.desired import Deployment
from app.versions.rollout.manager import VersionManager
from tests.managers import served, states
from tests.tiny import edit_manifest, write_tiny_version

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
