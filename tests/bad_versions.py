"""Version folders with something wrong, each with the reason for which it is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_node
from onnx.numpy_helper import from_array
from tokenizers import Regex
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase, Replace

from app.manifest import MANIFEST, Golden, GoldenEntity
from tests.tiny import (
    POISON,
    TEXT,
    VOCABULARY,
    edit_manifest,
    listed,
    replace_graph,
    tiny_graph,
    tiny_tokenizer,
)


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


def weights_beside(folder: Path) -> None:
    """The weights of the network in a file of their own, which the manifest lists; this is not wrong."""
    (folder / "model.fp32.onnx").unlink()
    onnx.save(
        tiny_graph(),
        folder / "model.fp32.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,  # the runtime wants to see shapes, which are small, in the graph
    )
    relist(folder)


def weights_outside(folder: Path) -> None:
    weights_beside(folder)
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


def drop_key(folder: Path, key: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[key]
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
