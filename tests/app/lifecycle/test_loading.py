"""Loading: a version serves only if everything about it is right, and a refusal says what is not."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnx.numpy_helper import from_array

from app.engine.session import CPU, CUDA
from app.errors import VersionRefused
from app.lifecycle.loading import LoadOptions, MemberVariants, choose_variant, load_single, load_version
from app.manifest import MANIFEST, Golden, GoldenEntity, Variant, file_hash, read_manifest
from tests.tiny import (
    POISON,
    SPANS,
    TEXT,
    edit_manifest,
    listed,
    replace_graph,
    tiny_graph,
    write_tiny_version,
)

ONE_THREAD = LoadOptions(threads=1)


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def torn_manifest(folder: Path) -> None:
    content = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(content[: len(content) // 2])


def binary_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\x80\x81\x82")


def nested_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[" * 100_000)


def list_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1]")


def without_model(folder: Path) -> None:
    (folder / "model.fp32.onnx").unlink()


def truncated_model(folder: Path) -> None:
    path = folder / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-10])


def flipped_model(folder: Path) -> None:
    path = folder / "model.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    shutil.move(folder / "model.fp32.onnx", outside)
    (folder / "model.fp32.onnx").symlink_to(outside)


def noise_for_a_model(folder: Path) -> None:
    (folder / "model.fp32.onnx").write_bytes(b"this is no graph" * 10)
    relist(folder)


def noise_for_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    relist(folder)


def relist(folder: Path) -> None:
    edit_manifest(folder, files={name: file.model_dump() for name, file in listed(folder).items()})


def other_input_names(folder: Path) -> None:
    graph = tiny_graph()
    graph.graph.input[0].name = graph.graph.node[0].input[1] = "tokens"
    replace_graph(folder, graph)


def other_output_name(folder: Path) -> None:
    graph = tiny_graph()
    graph.graph.output[0].name = graph.graph.node[-1].output[0] = "scores"
    replace_graph(folder, graph)


def other_columns(folder: Path) -> None:
    graph = tiny_graph()
    graph.graph.node[-1].output[0] = "all"
    graph.graph.initializer.append(from_array(np.arange(3), "some"))
    graph.graph.node.append(make_node("Gather", ["all", "some"], ["logits"], axis=2))
    del graph.graph.output[0].type.tensor_type.shape.dim[2:]
    graph.graph.output[0].type.tensor_type.shape.dim.add().dim_param = "tags"
    replace_graph(folder, graph)


def weights_outside(folder: Path) -> None:
    graph = tiny_graph()
    onnx.save(
        graph,
        folder / "model.fp32.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    shutil.move(folder / "weights.bin", folder.parent / "weights.bin")
    graph = onnx.load(folder / "model.fp32.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (folder / "model.fp32.onnx").write_bytes(graph.SerializeToString())
    relist(folder)


def golden(text: str, *spans: tuple[int, int, str]) -> list[dict[str, Any]]:
    entities = tuple(GoldenEntity(start=s, end=e, label=label) for s, e, label in spans)
    return [Golden(text=text, entities=entities).model_dump(mode="json")]


def edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, **changes)


def escaping(folder: Path) -> None:
    shutil.copy(folder / "model.fp32.onnx", folder.parent / "model.fp32.onnx")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../model.fp32.onnx"] = manifest["files"].pop("model.fp32.onnx")
    manifest["variants"][0]["file"] = "../model.fp32.onnx"
    (folder / MANIFEST).write_text(json.dumps(manifest))


def unreadable_file(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["x" * 300] = manifest["files"]["model.fp32.onnx"]  # no file system takes this name
    (folder / MANIFEST).write_text(json.dumps(manifest))


BAD_FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (without_manifest, "manifest.json is missing; the folder is still being copied"),
    "a torn manifest": (torn_manifest, "manifest.json cannot be read"),
    "a manifest that is no text": (binary_manifest, "manifest.json cannot be read"),
    "a manifest nested too deep": (nested_manifest, "manifest.json cannot be read"),
    "a manifest that is a list": (list_manifest, "has format_version None, this Nerve reads 1"),
    "another format version": (edit(format_version=2), "has format_version 2, this Nerve reads 1"),
    "an unknown key": (edit(speed="fast"), "speed: Extra inputs are not permitted"),
    "a missing key": (lambda f: drop_key(f, "tags"), "tags: Field required"),
    "another name": (edit(name="ner-de"), "manifest.json is of ner-de/7; rename the folder"),
    "another number": (edit(version=8), "manifest.json is of ner-en/8; rename the folder"),
    "no model file": (without_model, "model.fp32.onnx is missing; copy the folder again"),
    "a truncated file": (truncated_model, r"model.fp32.onnx has \d+ bytes, the manifest says \d+"),
    "a wrong hash": (flipped_model, "model.fp32.onnx: sha256 differs from the manifest"),
    "a file that cannot be read": (unreadable_file, r"x{300} cannot be read"),
    "a path out of the folder": (escaping, r"'../model.fp32.onnx' must stay inside the version's folder"),
    "an absolute path": (edit(tokenizer="/etc/hostname"), "'/etc/hostname' must stay inside"),
    "a link out of the folder": (link_out, "model.fp32.onnx leads out of the folder"),
    "weights out of the folder": (weights_outside, "cannot be loaded"),
    "a file that is not listed": (edit(tokenizer="vocab.json"), "files does not list 'vocab.json'"),
    "an ONNX file that does not parse": (noise_for_a_model, "cannot be loaded.*export it again"),
    "a tokenizer that does not parse": (noise_for_a_tokenizer, "cannot be loaded.*export it again"),
    "other input names": (other_input_names, r"has inputs \['attention_mask', 'tokens'\]"),
    "another output name": (other_output_name, r"outputs \['scores'\], the manifest says"),
    "another number of columns": (other_columns, "does not run: the logits .* 7 tags"),
    "a golden text that gives something else": (
        edit(golden=golden(TEXT, (0, 6, "PER"))),
        "golden text 'Angela Merkel visited IBM in New York.' gave .*, must give",
    ),
    "a golden text that gives nothing": (edit(golden=golden("nobody", (0, 6, "PER"))), "gave \\[\\]"),
    "a golden text that fails": (edit(golden=golden(POISON)), "a golden text fails: the session failed"),
    "an ensemble with a network": (edit(kind="ensemble"), "an ensemble has no variants and inputs"),
}


def drop_key(folder: Path, key: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[key]
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("bad", BAD_FOLDERS)
def test_a_bad_folder_is_refused_with_the_reason(tmp_path: Path, bad: str) -> None:
    spoil, reason = BAD_FOLDERS[bad]
    folder = write_tiny_version(tmp_path, version=7)
    spoil(folder)
    with pytest.raises(VersionRefused, match=reason) as refused:
        load_version(folder, ONE_THREAD)
    assert refused.value.message.startswith("ner-en/7: ")
    assert (refused.value.code, refused.value.status) == ("version_refused", 409)


def test_a_good_folder_is_ready_to_run(models_dir: Path) -> None:
    loaded = load_version(models_dir / "ner-en/1", ONE_THREAD)
    (prediction,) = loaded.predictor.predict([TEXT])
    assert [(e.start, e.end, e.label) for e in prediction.entities] == SPANS
    assert (loaded.manifest.version, loaded.variant.precision) == (1, "fp32")
    assert (loaded.provider, loaded.threads) == (CPU, 1)
    loaded.predictor.close()


def test_a_link_inside_the_folder_is_fine(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / "model.fp32.onnx").rename(folder / "graph.onnx")
    (folder / "model.fp32.onnx").symlink_to("graph.onnx")
    load_version(folder, ONE_THREAD).predictor.close()


def test_a_version_folder_may_itself_be_a_link(models_dir: Path, tmp_path: Path) -> None:
    shutil.move(models_dir / "ner-en/1", tmp_path / "elsewhere")
    (models_dir / "ner-en/1").symlink_to(tmp_path / "elsewhere")
    load_version(models_dir / "ner-en/1", ONE_THREAD).predictor.close()


@pytest.mark.parametrize(
    ("provider", "wanted", "precision"),
    [
        (CPU, "auto", "int8"),
        (CUDA, "auto", "fp16"),
        (CPU, "fp32", "fp32"),
        (CUDA, "int8", "int8"),
        (CPU, "fp16", "fp16"),
    ],
)
def test_the_variant_is_the_first_for_the_provider_or_the_one_asked_for(
    models_dir: Path, provider: str, wanted: str, precision: str
) -> None:
    variants = (
        Variant(precision="int8", file="model.int8.onnx", providers=(CPU,)),
        Variant(precision="fp16", file="model.fp16.onnx", providers=(CUDA,)),
        Variant(precision="fp32", file="model.fp32.onnx", providers=(CPU, CUDA)),
    )
    manifest = read_manifest(models_dir / "ner-en/1").model_copy(update={"variants": variants})
    assert choose_variant(manifest, provider, wanted).precision == precision


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(models_dir: Path) -> None:
    options = LoadOptions(variant="int8", threads=1)
    with pytest.raises(VersionRefused, match=r"ner-en/1: no variant 'int8'.*fp32 for CPU.*NERVE_VARIANT"):
        load_version(models_dir / "ner-en/1", options)


def test_every_batch_is_reported(models_dir: Path) -> None:
    reports: list[Any] = []
    loaded = load_version(models_dir / "ner-en/1", ONE_THREAD, reports.append)
    loaded.predictor.predict([TEXT])
    loaded.predictor.close()
    assert reports


# ensembles


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


@pytest.mark.parametrize("method", ["mean", "vote"])
def test_an_ensemble_loads_its_members_and_answers(models_dir: Path, method: str) -> None:
    loaded = load_version(write_team(models_dir, method), LoadOptions(threads=6))
    (prediction,) = loaded.predictor.predict([TEXT])
    assert [(e.start, e.end, e.label) for e in prediction.entities] == SPANS
    assert [e.agreement for e in prediction.entities] == [1.0, pytest.approx(2 / 3), 1.0]
    assert isinstance(loaded.variant, MemberVariants)
    assert [variant.file for variant in loaded.variant.variants] == ["model.fp32.onnx"] * 3
    assert (loaded.variant.precision, loaded.provider, loaded.threads) == ("fp32", CPU, 6)
    loaded.predictor.close()
    assert not loaded.predictor.alive


def test_every_member_has_a_thread(models_dir: Path) -> None:
    loaded = load_version(write_team(models_dir), ONE_THREAD)
    assert loaded.threads == 3
    loaded.predictor.close()


def test_batches_of_all_members_are_reported(models_dir: Path) -> None:
    reports: list[Any] = []
    loaded = load_version(write_team(models_dir), ONE_THREAD, reports.append)
    reports.clear()
    loaded.predictor.predict([TEXT])
    loaded.predictor.close()
    assert len(reports) == 3


def test_each_precision_of_the_members_is_named() -> None:
    variants = [Variant(precision=p, file="x", providers=(CPU,)) for p in ("int8", "fp32", "int8")]
    assert MemberVariants(tuple(variants)).precision == "fp32+int8"


def test_one_network_is_not_an_ensemble(models_dir: Path) -> None:
    folder = write_team(models_dir)
    with pytest.raises(VersionRefused, match=r"team/1: is an ensemble.*one of its members \(ner-en/1,"):
        load_single(folder, ONE_THREAD)
    load_single(models_dir / "ner-en/1", ONE_THREAD).predictor.close()


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


def test_an_ensemble_is_checked_against_its_own_golden_texts(models_dir: Path) -> None:
    folder = write_team(models_dir, golden=golden("IBM", (0, 3, "PER")))
    before = threading.active_count()
    with pytest.raises(VersionRefused, match=r"team/1: golden text 'IBM' gave .*ORG"):
        load_version(folder, ONE_THREAD)
    assert threading.active_count() == before
