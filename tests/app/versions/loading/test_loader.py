"""Loading: a version serves only if everything about it is right, and a refusal says what is not."""

import json
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node
from onnx.numpy_helper import from_array
from tokenizers import Regex
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase, Replace

from app.engine.priority import LOWEST
from app.engine.runtimes.session import CPU, CUDA
from app.errors import InferenceFailed, VersionRefused
from app.manifest import MANIFEST, Golden, GoldenEntity, Variant, file_hash, read_manifest
from app.versions.loading.loader import (
    Loader,
    LoadOptions,
    MemberVariants,
    Report,
    choose_variant,
    load_single,
    load_version,
)
from tests.servers import until
from tests.tiny import (
    POISON,
    SPANS,
    TEXT,
    VOCABULARY,
    edit_manifest,
    listed,
    replace_graph,
    tiny_graph,
    tiny_tokenizer,
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


def tokenizer_of(spoil: Callable[[RustTokenizer], None], **changes: Any) -> Callable[[Path], None]:
    """The tiny tokenizer with something wrong, and the manifest lists it as it is."""

    def write(folder: Path) -> None:
        tokenizer = tiny_tokenizer()
        spoil(tokenizer)
        tokenizer.save(str(folder / "tokenizer.json"))
        relist(folder)
        edit_manifest(folder, **changes)

    return write


def foreign_words(tokenizer: RustTokenizer) -> None:
    """A vocabulary in which no word of the texts is."""
    ids = {token if token.startswith("[") else f"☃{token}": n for n, token in enumerate(VOCABULARY)}
    tokenizer.model = WordPiece(ids, unk_token="[UNK]")


def small_words(tokenizer: RustTokenizer) -> None:
    """All words are in capitals, and every text is made small."""
    ids = {token if token.startswith("[") else token.upper(): n for n, token in enumerate(VOCABULARY)}
    known = {token: n for token, n in ids.items() if token.startswith("[") or "A" <= token <= "Z"}
    tokenizer.model = WordPiece(known, unk_token="[UNK]")
    tokenizer.normalizer = Lowercase()


def no_words(tokenizer: RustTokenizer) -> None:
    tokenizer.normalizer = Replace(Regex("[\\s\\S]"), "")


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
    "a tokenizer that knows no word": (
        tokenizer_of(foreign_words),
        r"tokenizer.json maps every word of the golden texts to its sub-token '\[UNK\]'; it is damaged",
    ),
    "a tokenizer that knows no word, without golden texts": (
        tokenizer_of(small_words, golden=[]),
        r"tokenizer.json maps every word of its own vocabulary to its sub-token '\[UNK\]'",
    ),
    "a tokenizer that drops everything": (
        tokenizer_of(no_words),
        "tokenizer.json maps every word of the golden texts to no sub-token",
    ),
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
    assert (refused.value.code, refused.value.kind) == ("version_refused", "refused")


def test_a_good_folder_is_ready_to_run(models_dir: Path) -> None:
    loaded = load_version(models_dir / "ner-en/1", ONE_THREAD)
    (prediction,) = loaded.model.predict([TEXT])
    assert [(e.start, e.end, e.label) for e in prediction.entities] == SPANS
    assert (loaded.manifest.version, loaded.variant.precision) == (1, "fp32")
    assert (loaded.provider, loaded.threads) == (CPU, 1)
    loaded.model.close()


def test_a_link_inside_the_folder_is_fine(models_dir: Path) -> None:
    folder = models_dir / "ner-en/1"
    (folder / "model.fp32.onnx").rename(folder / "graph.onnx")
    (folder / "model.fp32.onnx").symlink_to("graph.onnx")
    load_version(folder, ONE_THREAD).model.close()


def test_a_version_folder_may_itself_be_a_link(models_dir: Path, tmp_path: Path) -> None:
    shutil.move(models_dir / "ner-en/1", tmp_path / "elsewhere")
    (models_dir / "ner-en/1").symlink_to(tmp_path / "elsewhere")
    load_version(models_dir / "ner-en/1", ONE_THREAD).model.close()


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
    loaded.model.predict([TEXT])
    loaded.model.close()
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


def test_each_precision_of_the_members_is_named() -> None:
    variants = [Variant(precision=p, file="x", providers=(CPU,)) for p in ("int8", "fp32", "int8")]
    assert MemberVariants(tuple(variants)).precision == "fp32+int8"


def test_one_network_is_not_an_ensemble(models_dir: Path) -> None:
    folder = write_team(models_dir)
    with pytest.raises(VersionRefused, match=r"team/1: is an ensemble.*one of its members \(ner-en/1,"):
        load_single(folder, ONE_THREAD)
    load_single(models_dir / "ner-en/1", ONE_THREAD).model.close()


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


# what versions have in common


@pytest.fixture
def counted() -> Counter[str]:
    """How often each version was opened, of a loader that `counting` made."""
    return Counter()


def counting(counted: Counter[str]) -> Loader:
    def report(model: str, version: int) -> Report:
        counted[f"{model}/{version}"] += 1
        return lambda batch: None

    return Loader(ONE_THREAD, report)


def test_a_network_is_loaded_once_and_closes_with_its_last_user(
    models_dir: Path, counted: Counter[str]
) -> None:
    loader = counting(counted)
    folder = write_team(models_dir)
    team, alone, again = (
        loader.load(path) for path in (folder, models_dir / "ner-en/1", models_dir / "ner-en/1")
    )
    assert counted == {"ner-en/1": 1, "ner-en/2": 1, "other/1": 1}
    assert alone.model is again.model
    alone.close()
    alone.close()  # once is enough
    team.close()
    team.close()
    assert again.model.predict([TEXT])[0].entities
    again.close()
    assert not again.model.alive


def test_an_ensemble_keeps_its_members_when_others_close_them(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    alone, team = loader.load(models_dir / "ner-en/1"), loader.load(write_team(models_dir))
    alone.close()
    assert team.model.predict([TEXT])[0].entities
    team.close()
    assert not alone.model.alive


def test_two_ensembles_share_their_members(models_dir: Path, counted: Counter[str]) -> None:
    loader = counting(counted)
    first = loader.load(write_team(models_dir))
    (models_dir / "team/1").rename(models_dir / "team-1")
    shutil.rmtree(models_dir / "team")
    write_team(models_dir, "vote", version=2).rename(models_dir / "team/2")
    second = loader.load(models_dir / "team/2")
    assert set(counted.values()) == {1}
    first.close()
    assert second.model.predict([TEXT])[0].entities
    second.close()


def test_threads_that_load_at_the_same_time_load_once(models_dir: Path, counted: Counter[str]) -> None:
    loader, start, found = counting(counted), threading.Barrier(8), list[Any]()

    def load() -> None:
        start.wait()
        found.append(loader.load(models_dir / "ner-en/1"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == {"ner-en/1": 1}
    assert len({id(loaded.model) for loaded in found}) == 1
    for loaded in found:
        assert loaded.model.alive
        loaded.close()
    assert not found[0].model.alive


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


def test_a_folder_that_changed_is_loaded_anew(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    old = loader.load(models_dir / "ner-en/1")
    edit_manifest(models_dir / "ner-en/1", description="another")
    new = loader.load(models_dir / "ner-en/1")
    assert (old.manifest.description, new.manifest.description) != ("another", old.manifest.description)
    assert old.model is not new.model
    old.close()
    assert new.model.predict([TEXT])[0].entities
    new.close()


def test_a_network_that_fails_is_shared_with_nobody_new(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    old = loader.load(models_dir / "ner-en/1")
    for _ in range(3):
        with pytest.raises(InferenceFailed):
            old.model.predict([POISON])
    new = loader.load(models_dir / "ner-en/1")
    assert (old.model.failing, new.model.failing) == (True, False)
    old.close()
    again = loader.load(models_dir / "ner-en/1")
    assert again.model is new.model
    again.close()
    new.close()
    assert not new.model.alive


def test_what_was_refused_is_tried_again_once_it_is_asked_for(models_dir: Path) -> None:
    loader = Loader(ONE_THREAD)
    shutil.copy(models_dir / "ner-en/1/model.fp32.onnx", models_dir / "kept")
    truncated_model(models_dir / "ner-en/1")
    for _ in range(2):
        with pytest.raises(VersionRefused, match="the manifest says"):
            loader.load(models_dir / "ner-en/1")
    shutil.move(models_dir / "kept", models_dir / "ner-en/1/model.fp32.onnx")
    loader.load(models_dir / "ner-en/1").close()


def test_a_members_batches_are_reported_under_its_own_name(models_dir: Path) -> None:
    batches = Counter[str]()

    def report(model: str, version: int) -> Report:
        return lambda batch: batches.update([f"{model}/{version}"])

    loaded = Loader(ONE_THREAD, report).load(write_team(models_dir))
    batches.clear()
    loaded.model.predict([TEXT])
    loaded.close()
    assert batches == {"ner-en/1": 1, "ner-en/2": 1, "other/1": 1}


def test_versions_that_bring_the_same_tokenizer_share_it(models_dir: Path) -> None:
    write_tiny_version(models_dir, version=2)
    write_tiny_version(models_dir, version=3, words="space", golden=[])
    loader = Loader(ONE_THREAD)
    loaded = [loader.load_single(models_dir / "ner-en" / str(version)) for version in (1, 2, 3)]
    first, second, third = (one.model.tokenizer for one in loaded)
    assert first is second
    assert (third is first, third.rule) == (False, "space")
    for one in loaded:
        one.close()


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
    with pytest.raises(VersionRefused, match=r"ner-en/1: .*nowhere\.pem"):
        load_version(models_dir / "ner-en/1", options)


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


def test_the_background_shares_nothing_with_the_foreground(models_dir: Path) -> None:
    loader = Loader(LoadOptions(threads=2))
    loaded = loader.load(models_dir / "ner-en/1")
    hidden = loader.load(models_dir / "ner-en/1", background=True)
    assert (loaded.threads, hidden.threads) == (2, 1)
    assert loaded.model is not hidden.model
    hidden.close()
    assert loaded.model.alive
    loaded.close()
