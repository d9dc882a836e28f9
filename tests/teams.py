"""An ensemble of tiny versions, and what may be wrong with its members."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.manifest import MANIFEST, file_hash
from tests.bad_versions import flipped_model, golden, torn_manifest
from tests.tiny import TEXT, edit_manifest, write_tiny_version


def write_team(models: Path, method: str = "mean", **changes: Any) -> Path:
    """`team/1` of `ner-en/1`, `ner-en/2` and `other/1`, all written by the way."""
    for name, version, ibm in (("ner-en", 1, "ORG"), ("ner-en", 2, "PER"), ("other", 1, "ORG")):
        if not (models / name / str(version)).exists():
            write_tiny_version(models, name, version, ibm=ibm)
    members = ("ner-en/1", "ner-en/2", "other/1")
    first = json.loads((models / "ner-en/1" / MANIFEST).read_text())
    team: dict[str, Any] = {
        "kind": "ensemble",
        "name": "team",
        "version": 1,
        "method": method,
        "members": members,
        "member_hashes": {member: file_hash(models / member / MANIFEST) for member in members},
        "variants": (),
        "inputs": {},
        "files": {},
    }
    folder = models / "team/1"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps(first | team | changes))
    return folder


def no_member(models: Path) -> None:
    shutil.rmtree(models / "ner-en/2")


def changed_member(models: Path) -> None:
    edit_manifest(models / "ner-en/2", description="a quiet change")


def flipped_member(models: Path) -> None:
    flipped_model(models / "ner-en/2")


def torn_member(models: Path) -> None:
    torn_manifest(models / "ner-en/2")


def trusted(**changes: Any) -> Callable[[Path], None]:
    """A member that always was as it is."""

    def spoil(models: Path) -> None:
        edit_manifest(models / "ner-en/2", **changes)
        shutil.rmtree(models / "team")
        write_team(models)

    return spoil


def team_of_teams(models: Path) -> None:
    write_team(models)
    (models / "team/1").rename(models / "team/2")
    edit_manifest(models / "team/2", version=2)
    members = ["ner-en/1", "team/2"]
    hashes = {member: file_hash(models / member / MANIFEST) for member in members}
    write_team(models, members=members, member_hashes=hashes)


def team_of_itself(models: Path) -> None:
    members = ["ner-en/1", "team/1"]
    hashes = {member: file_hash(models / "ner-en/1" / MANIFEST) for member in members}
    write_team(models, members=members, member_hashes=hashes)


BAD_TEAMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no member": (no_member, "member ner-en/2 is not there; copy its folder to .*ner-en/2"),
    "a member that changed": (
        changed_member,
        "member ner-en/2 is not the one it was made with.*new version",
    ),
    "a member with a wrong file": (flipped_member, "member ner-en/2: model.fp32.onnx: sha256 differs"),
    "a member that is torn": (torn_member, "member ner-en/2: manifest.json cannot be read"),
    "other words": (trusted(words="space"), "member ner-en/2 splits words by 'space'"),
    "another scheme": (
        trusted(scheme="IOB1"),
        "member ner-en/2 has the tag scheme IOB1, the ensemble IOB2; .*vote",
    ),
    "other labels": (
        trusted(labels=["PER"], tags=["O", "B-PER", "I-PER"], golden=[]),
        "member ner-en/2 has the labels PER",
    ),
    "a member that fails its golden text": (
        trusted(golden=golden(TEXT, (0, 6, "PER"))),
        "member ner-en/2: golden text",
    ),
}
