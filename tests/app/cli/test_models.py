"""`nerve models` as a person runs it, in a process of its own."""

import json
import re
from pathlib import Path

import pytest

from app.versions.rollout.desired import AbortRule, Shadow
from app.versions.rollout.store import DeploymentStore
from tests.servers import nerve
from tests.tiny import edit_manifest, write_tiny_version


def test_versions_are_activated_listed_and_rolled_back(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=2)
    DeploymentStore(models_dir / ".state").edit("ner-en", lambda d: d.with_stable(1))
    done = nerve("models", "activate", "ner-en", "2", models=models_dir)
    assert (done.returncode, done.stdout) == (0, "ner-en: stable 2, previous 1\n")
    assert nerve("models", "list", models=models_dir).stdout == "ner-en/1\tprevious\nner-en/2\tstable\n"
    back = nerve("models", "rollback", "ner-en", models=models_dir)
    assert (back.returncode, back.stdout) == (0, "ner-en: stable 1, previous 2\n")
    state = json.loads((models_dir / ".state/ner-en.json").read_text())
    assert (state["stable"], state["previous"], state["generation"]) == (1, 2, 3)


def test_a_version_that_fails_is_refused_with_the_reason(models_dir: Path) -> None:
    edit_manifest(write_tiny_version(models_dir, version=2), format_version=9)
    done = nerve("models", "activate", "ner-en", "2", models=models_dir)
    assert done.returncode == 1
    assert "nerve: ner-en/2: manifest.json has format_version 9" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (models_dir / ".state/ner-en.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("activate", "ner-en", "9"), "ner-en has no version 9 (it has 1)"),
        (("activate", "nope", "1"), "no model 'nope'"),
        (("rollback", "ner-en"), "ner-en: no version served before"),
        (("canary", "ner-en", "1", "--sticky", ""), "nerve: sticky='': String should have at least 1"),
        (
            ("canary", "ner-en", "1", "--requests", "100"),
            "--requests 100: the canary is judged by its last",
        ),
        (("verify", "ner-en/x"), "'ner-en/x': names no version; give NAME/VERSION"),
        (("verify", ""), "no model ''"),
        (("verify", "nope"), "no model 'nope'"),
        (("sign", "ner-en", "--key", "key.pem"), "'ner-en': names no version"),
    ],
)
def test_what_cannot_be_done_is_a_message_and_no_traceback(
    models_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = nerve("models", *arguments, models=models_dir)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("activate", "ner-en", "0"), "'version': Input should be greater than or equal to 1"),
        (("canary", "ner-en", "0"), "'version': Input should be greater than or equal to 1"),
        (("shadow", "ner-en", "0"), "'version': Input should be greater than or equal to 1"),
        (("shadow", "ner-en", "1", "--percent", "nan"), "'--percent': Input should be less than"),
        (
            ("canary", "ner-en", "1", "--requests", "1000000", "--abort-errors", "2"),
            "'--requests': Input should be less than or equal to 100000",
        ),
    ],
)
def test_a_number_out_of_range_is_a_message_and_changes_nothing(
    models_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    write_tiny_version(models_dir, version=2)
    store = DeploymentStore(models_dir / ".state")
    shadow = (Shadow(version=2, percent=10),)
    before = store.edit("ner-en", lambda d: d.with_stable(1).model_copy(update={"shadow": shadow}))
    done = nerve("models", *arguments, models=models_dir)
    assert done.returncode == 2
    plain = re.sub(r"\x1b\[[0-9;]*m|│", "", done.stderr)  # without colours and the frame
    assert message in " ".join(plain.split())
    assert "Traceback" not in done.stderr
    assert store.read("ner-en") == before


def test_a_canary_is_judged_by_500_requests_or_as_many_as_are_asked_for(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=2)
    store = DeploymentStore(models_dir / ".state")
    store.edit("ner-en", lambda d: d.with_stable(1))
    start = ("models", "canary", "ner-en", "2")
    for options, rule in (
        ((), None),
        (("--abort-errors", "2"), AbortRule(requests=500, errors=2)),
        (("--abort-p99", "1.5", "--requests", "100000"), AbortRule(requests=100_000, p99=1.5)),
    ):
        done = nerve(*start, *options, models=models_dir)
        assert (done.returncode, done.stderr) == (0, "")
        deployment = store.read("ner-en")
        assert deployment
        assert deployment.canary
        assert deployment.canary.abort == rule


def test_without_a_version_shadows_end(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=2)
    DeploymentStore(models_dir / ".state").edit("ner-en", lambda d: d.with_stable(1))
    begun = nerve("models", "shadow", "ner-en", "2", models=models_dir)
    assert begun.stdout == "ner-en: stable 1, previous None, shadow 2 with 10 %\n"
    ended = nerve("models", "shadow", "ner-en", models=models_dir)
    assert ended.stdout == "ner-en: stable 1, previous None\n"


def test_versions_are_verified(models_dir: Path) -> None:
    write_tiny_version(models_dir, "other", version=2)
    for arguments in ((), ("other",), ("other/2",)):
        done = nerve("models", "verify", *arguments, models=models_dir)
        passed = "other/2\tpasses\n" if arguments else "ner-en/1\tpasses\nother/2\tpasses\n"
        assert (done.returncode, done.stdout) == (0, passed)
    edit_manifest(models_dir / "ner-en/1", format_version=9)
    done = nerve("models", "verify", models=models_dir)
    refused, passes = done.stdout.splitlines()
    assert done.returncode == 1
    assert refused.startswith("ner-en/1\trefused: ner-en/1: manifest.json has format_version 9")
    assert passes == "other/2\tpasses"
    missing = nerve("models", "verify", "other/3", models=models_dir)
    assert (missing.returncode, missing.stdout) == (
        1,
        "other/3\trefused: other has no version 3 (it has 2)\n",
    )
    unread = nerve("models", "verify", "other", models=models_dir, revoked=models_dir / "none.txt")
    assert unread.returncode == 1
    assert unread.stdout.startswith("other/2\tnot checked: other/2: was not checked (NERVE_REVOKED: ")


def test_a_torn_state_is_a_message_and_the_others_are_listed(models_dir: Path) -> None:
    write_tiny_version(models_dir, "other")
    write_tiny_version(models_dir, "torn")
    DeploymentStore(models_dir / ".state").edit("other", lambda d: d.with_stable(1))
    for name in ("ner-en", "torn"):
        (models_dir / f".state/{name}.json").write_text("{")
    done = nerve("models", "list", models=models_dir)
    assert (done.returncode, done.stdout) == (1, "other/1\tstable\n")
    first, second = done.stderr.splitlines()
    assert "ner-en.json: not a deployment" in first
    assert "torn.json: not a deployment" in second
