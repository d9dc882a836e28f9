import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import VersionRefused
from app.manifest import (
    MANIFEST,
    MAX_BYTES,
    Manifest,
    file_hash,
    parse_manifest,
    read_manifest,
    verify_files,
)
from tests.tiny import LABELS, TAGS, edit_manifest


@pytest.fixture
def fields(models_dir: Path) -> Any:
    return json.loads((models_dir / "ner-en/1" / MANIFEST).read_text())


def test_what_is_written_is_read(models_dir: Path, fields: Any) -> None:
    manifest = read_manifest(models_dir / "ner-en/1")
    assert (manifest.name, manifest.version, manifest.labels, manifest.tags) == ("ner-en", 1, LABELS, TAGS)
    assert json.loads(manifest.to_json()) == fields
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


def test_a_manifest_says_its_format_version(fields: Any) -> None:
    assert fields["format_version"] == 1


def test_files_that_are_as_listed_pass(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    verify_files(folder, read_manifest(folder))  # all that it does is to raise where they are not


def test_files_that_are_not_listed_are_nobodys_business(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / "notes.txt").write_text("mine")
    verify_files(folder, read_manifest(folder))  # all that it does is to raise of files that are listed


def test_a_listed_file_is_checked_even_if_nothing_loads_it(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / "README.md").write_text("card")
    card = {"size": 4, "sha256": file_hash(folder / "README.md")}
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files=files | {"README.md": card})
    verify_files(folder, read_manifest(folder))
    (folder / "README.md").write_text("cart")
    with pytest.raises(VersionRefused, match=r"README\.md: sha256 differs"):
        verify_files(folder, read_manifest(folder))


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tags": ["B-PER", "I-PER"]}, "hold O"),
        ({"tags": ["O", "I-PER", "I-PER"]}, "distinct"),
        ({"labels": ["PER", "ORG"]}, "tags name"),
        ({"thresholds": {"MISC": 0.5}}, "thresholds for unknown labels"),
        ({"stride": 62}, "leaves no step"),
        ({"variants": []}, "needs variants"),
        ({"inputs": {"attention_mask": "mask"}}, "an input fed by ids"),
        ({"inputs": {"input_ids": "letters"}}, "Input should be 'ids'"),
        ({"scheme": "BILOU"}, "scheme"),
        ({"words": "lines"}, "words"),
        ({"temperature": 0}, "temperature"),
        ({"version": 0}, "version"),
        ({"name": "../x"}, "name"),
        ({"name": "Ner"}, "name"),
        ({"max_length": 4}, "max_length"),
        ({"golden": [{"text": "a", "entities": [], "why": "?"}]}, "why"),
        ({"files": {"../x": {"size": 1, "sha256": "0" * 64}}}, "must stay inside"),
        ({"files": {"a\\b": {"size": 1, "sha256": "0" * 64}}}, "must stay inside"),
        ({"files": {"tokenizer.json": {"size": 1, "sha256": "abc"}}}, "sha256"),
        ({"members": ["a/1", "b/1"]}, "are an ensemble's"),
        ({"weights": [1.0, 1.0]}, "are an ensemble's"),
        ({"method": "mean"}, "are an ensemble's"),
        ({"member_hashes": {"a/1": "0" * 64}}, "are an ensemble's"),
    ],
)
def test_a_contradiction_is_refused(fields: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate(fields | changes)


TEAM: dict[str, Any] = {
    "kind": "ensemble",
    "name": "team",
    "variants": [],
    "inputs": {},
    "files": {},
    "members": ["ner-en/1", "ner-de/12"],
    "member_hashes": {"ner-en/1": "0" * 64, "ner-de/12": "1" * 64},
    "method": "mean",
}


def test_an_ensemble_names_its_members_and_how_they_are_combined(fields: Any) -> None:
    alike = Manifest.model_validate(fields | TEAM)
    assert (alike.kind, alike.members, alike.weights) == ("ensemble", ("ner-en/1", "ner-de/12"), ())
    weighted = Manifest.model_validate(fields | TEAM | {"weights": [2, 0.5], "method": "vote"})
    assert weighted.weights == (2.0, 0.5)
    assert Manifest.model_validate_json(weighted.to_json()) == weighted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"members": ["ner-en/1"]}, "two or more distinct members"),
        ({"members": ["ner-en/1", "ner-en/1"]}, "two or more distinct members"),
        ({"name": "ner-en"}, "an ensemble cannot be a member of itself"),
        ({"members": ["../x", "ner-en/1"]}, "members.0"),
        ({"members": ["ner-en", "ner-de/1"]}, "members.0"),
        ({"members": ["ner-en/1/..", "ner-de/1"]}, "members.0"),
        ({"members": ["ner-en/0", "ner-de/1"]}, "members.0"),
        ({"member_hashes": {"ner-en/1": "0" * 64}}, "hash of each member"),
        ({"member_hashes": {**TEAM["member_hashes"], "x/1": "0" * 64}}, "hash of each member"),
        ({"member_hashes": {"ner-en/1": "0", "ner-de/12": "1"}}, "member_hashes"),
        ({"method": None}, "needs a method, mean or vote"),
        ({"method": "median"}, "method"),
        ({"weights": [1.0]}, "1 weights for 2 members"),
        ({"weights": [1.0, 0.0]}, "weights.1"),
        ({"weights": [1.0, -1.0]}, "weights.1"),
        ({"weights": [1.0, float("nan")]}, "weights.1"),
        ({"weights": [1.0, float("inf")]}, "weights.1"),
        ({"inputs": {"input_ids": "ids"}}, "no variants and inputs"),
        ({"method": "vote", "temperature": 2.0}, "a vote has no temperature"),
        ({"tags": ["O", "B-PER", "B-ORG", "B-LOC"]}, "'I-LOC', 'I-ORG', 'I-PER'. are missing"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(fields: Any, changes: dict[str, Any], reason: str) -> None:
    Manifest.model_validate(fields | TEAM)
    with pytest.raises(ValidationError, match=reason):
        Manifest.model_validate(fields | TEAM | changes)


# hostile


def test_a_manifest_that_is_no_file_or_too_large_is_refused(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / MANIFEST).write_bytes(b"[" * (MAX_BYTES + 1))
    with pytest.raises(VersionRefused, match=r"ner-en/1: manifest.json has 4194305 bytes, more than the"):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(VersionRefused, match=r"ner-en/1: manifest.json is no regular file"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["golden", "files", "x"])
def test_many_wrong_values_are_counted_and_not_looked_at(
    models_dir: Path, fields: Any, name: str
) -> None:  # each would cost pydantic kilobytes, and all gigabytes
    many: Any = {str(number): 0 for number in range(60_000)} if name == "files" else [0] * 60_000
    content = json.dumps(fields | {name: [many] if name == "x" else many}).encode()
    with pytest.raises(VersionRefused, match=r"has \d+ values or more, and 50000 are allowed"):
        parse_manifest(models_dir / "ner-en/1", content)
    parse_manifest(models_dir / "ner-en/1", json.dumps(fields | {"metrics": {"x": many}}).encode())


def test_what_a_manifest_says_is_said_in_short(models_dir: Path, fields: Any) -> None:
    for changes in ({"format_version": "9" * 100_000}, {"labels": ["x" * 100_000]}, {"x" * 100_000: 1}):
        with pytest.raises(VersionRefused) as refused:
            parse_manifest(models_dir / "ner-en/1", json.dumps(fields | changes).encode())
        assert len(refused.value.message) < 2_000


def test_a_file_that_is_none_is_refused(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(VersionRefused, match=r"ner-en/1: tokenizer.json is no regular file"):
        verify_files(folder, read_manifest(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(VersionRefused, match=r"ner-en/1: tokenizer.json is missing"):
        verify_files(folder, read_manifest(folder))


def test_what_was_checked_is_returned(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    kept = verify_files(folder, read_manifest(folder), ["tokenizer.json"])
    assert kept == {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}
