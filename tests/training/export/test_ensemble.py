"""A packaged ensemble: it loads, serves, is measured, and appears whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import VersionRefused
from app.manifest import MANIFEST, file_hash, read_manifest
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from app.versions.rollout.manager import VersionManager
from app.versions.storage.repository import Repository
from tests.managers import leased, make_manager
from tests.servers import sample_sum, serving
from tests.tiny import SCORES, SPANS, TEXT, edit_manifest, write_tiny_version
from training.data.corpora import LoadedCorpus
from training.data.documents import Document, Span
from training.evaluation.evaluate import evaluate
from training.export.ensemble import Members, ensemble_manifest, package_ensemble, publish_ensemble

SURE = SCORES | {"merkel": {"I-PER": 8.0}, "new": {"B-LOC": 8.0}, "york": {"I-LOC": 8.0}}
MEMBERS = ("ner-en/1", "ner-en/2", "other/1")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The versions `ner-en/1`, `other/1`, and `ner-en/2`, which labels IBM as a person."""
    models = tmp_path / "models"
    write_tiny_version(models, scores=SURE)
    write_tiny_version(models, version=2, scores=SURE, ibm="PER")
    write_tiny_version(models, "other", scores=SURE, languages=["en", "de"], license="MIT")
    return models


def answers(folder: Path, text: str = TEXT) -> list[tuple[int, int, str]]:
    loaded = load_version(folder, LoadOptions(threads=1))
    (prediction,) = loaded.model.predict([text])
    loaded.model.close()
    return [(e.start, e.end, e.label) for e in prediction.entities]


@pytest.mark.parametrize("method", ["mean", "vote"])
def test_what_is_published_loads_and_answers(models: Path, method: Any) -> None:
    folder = package_ensemble("team", Members(MEMBERS, method), models, description="Three tables.")
    assert folder == models / "team/1"
    assert {path.name for path in folder.iterdir()} == {"README.md", MANIFEST}
    assert answers(folder) == SPANS
    manifest = read_manifest(folder)
    assert (manifest.members, manifest.method, manifest.weights) == (MEMBERS, method, ())
    assert set(manifest.files) == {"README.md"}
    assert (manifest.languages, manifest.license) == (("en",), "Apache-2.0 AND MIT")


def test_weights_decide(models: Path) -> None:
    folder = package_ensemble("team", Members(MEMBERS, "vote", (1, 5, 1)), models)
    assert answers(folder)[1] == (22, 25, "PER")
    assert read_manifest(folder).weights == (1, 5, 1)


def test_golden_texts_are_those_that_members_are_sure_of_together(models: Path) -> None:
    texts = ["IBM", "Angela Merkel", "Perhaps", "New York"]
    folder = package_ensemble("team", Members(MEMBERS, "mean"), models, candidates=texts)
    assert [golden.text for golden in read_manifest(folder).golden] == ["Angela Merkel", "New York"]
    twins = package_ensemble("twins", Members(("ner-en/1", "other/1"), "mean"), models)
    (golden,) = read_manifest(twins).golden  # both members bring the same one
    assert golden.text == TEXT


def test_a_member_that_changes_is_found(models: Path) -> None:
    folder = package_ensemble("team", Members(MEMBERS, "mean"), models)
    manifest = read_manifest(folder)
    hashes = {member: file_hash(models / member / MANIFEST) for member in MEMBERS}
    assert manifest.member_hashes == hashes
    assert manifest.lineage["members"] == [
        {"version": member, "manifest_sha256": hashes[member]} for member in MEMBERS
    ]
    assert "numpy" in manifest.lineage["libraries"]
    edit_manifest(models / "other/1", temperature=2.0)
    with pytest.raises(VersionRefused, match="member other/1 is not the one it was made with"):
        load_version(folder)


def test_the_card_names_the_members_and_what_was_measured(models: Path) -> None:
    document = Document("mine:1", TEXT, tuple(Span(*span) for span in SPANS))
    corpus = LoadedCorpus("mine", (document,))
    manifest = ensemble_manifest("team", Members(MEMBERS, weights=(2, 1, 1)), models)
    measured: dict[str, Any] = {}

    def measure(draft: Path) -> dict[str, Any]:
        assert not (models / "team").exists()
        measured.update(evaluate(draft, [corpus]))
        return {"test": measured}

    folder = publish_ensemble(manifest, models, measure)
    assert measured["average_f1"] == 100
    card = (folder / "README.md").read_text()
    assert "| ner-en/1 | 2 | Apache-2.0 | Looks names up in a table. |" in card
    assert "| mine | all | 100.00 |" in card
    assert "3 versions that answer as one, by\nthe mean of their word posteriors" in card
    assert read_manifest(folder).metrics == {"test": measured}
    assert evaluate(folder, [corpus]) == measured
    bare = package_ensemble("bare", Members(MEMBERS, "vote"), models)
    assert "not measured when it was packaged" in (bare / "README.md").read_text()


def test_a_calibrated_manifest_is_published_as_it_is(models: Path) -> None:
    manifest = ensemble_manifest("team", Members(MEMBERS), models)
    manifest = manifest.model_copy(update={"temperature": 1.5, "thresholds": {"ORG": 0.9}})
    folder = publish_ensemble(manifest, models)
    assert (read_manifest(folder).temperature, read_manifest(folder).thresholds) == (1.5, {"ORG": 0.9})
    assert answers(folder) == [SPANS[0], SPANS[2]]


def test_the_number_is_the_next_free_one_and_never_taken_twice(models: Path) -> None:
    folder = package_ensemble("ner-en", Members(MEMBERS, "mean"), models)
    assert folder == models / "ner-en/3"
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(FileExistsError, match="ner-en/3: exists"):
        package_ensemble("ner-en", Members(MEMBERS, "vote"), models, version=3)
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("members", "weights", "reason"),
    [
        (("ner-en/1", "strange/1"), None, r"strange/1.*splits words by 'space'"),
        (("ner-en/1", "ner-en/9"), None, "member ner-en/9: .*ner-en/9 holds no version"),
        (("ner-en/1",), None, "two or more distinct members"),
        ((), None, "none was named"),
        (("ner-en/1", "ner-en/2"), (1, 2, 3), "3 weights for 2 members"),
        (("ner-en/1", "ner-en/2"), (1, 0), "greater than 0"),
    ],
)
def test_a_failure_leaves_nothing(models: Path, members: Any, weights: Any, reason: str) -> None:
    write_tiny_version(models, "strange", words="space", golden=[])
    with pytest.raises((VersionRefused, ValueError), match=reason):
        package_ensemble("team", Members(members, "mean", weights), models)
    assert Repository(models).versions("team") == []


@pytest.fixture
def manager(models: Path) -> Iterator[VersionManager]:
    made = make_manager(models)
    yield made
    made.close()


def test_a_running_manager_swaps_to_an_ensemble_and_back(models: Path, manager: VersionManager) -> None:
    manager.operations.activate("ner-en", 2, "me")
    package_ensemble("ner-en", Members(MEMBERS, "mean"), models)
    manager.reconcile()
    with leased(manager, "ner-en") as old:
        manager.operations.activate("ner-en", 3, "me")
        with leased(manager, "ner-en") as new:
            assert new.model.predict([TEXT])[0].entities[1].label == "ORG"
            assert new.variant.precision == "fp32"
        assert old.model.predict([TEXT])[0].entities[1].label == "PER"
    manager.operations.rollback("ner-en", "me")
    assert not new.model.alive


def test_a_server_answers_with_an_ensemble(models: Path, tmp_path: Path) -> None:
    package_ensemble("team", Members(MEMBERS, "mean"), models)
    with serving(models, tmp_path / "server.log", default_model="team") as server:
        answer = server.ner(TEXT)
        assert answer["model"] == "team"
        assert [(e["start"], e["end"], e["label"]) for e in answer["entities"]] == SPANS
        assert set(answer["entities"][0]) == {"text", "label", "start", "end", "score"}
        (version,) = server.client.get("/models/team").json()["versions"]
        assert (version["state"], version["precision"], version["threads"]) == ("serving", "fp32", 3)
        text = server.client.get("/metrics").text
        assert sample_sum(text, "nerve_model_info", {"model": "team", "precision": "fp32"}) == 1
        assert sample_sum(text, "nerve_queue_tokens", {"model": "team"}) == 0
