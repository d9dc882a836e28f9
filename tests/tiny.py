"""A tiny real model: a WordPiece tokenizer and an ONNX graph that looks each sub-token up in a table.

Names it knows get a tag of their own, every other sub-token is `O`. All numbers in it are small multiples
of a quarter, so that sums are exact and scores can be compared for equality.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from app.engine.runtimes.cuda import CUDA
from app.engine.runtimes.session import CPU
from app.labels import tags_of
from app.manifest import MANIFEST, File, Golden, GoldenEntity, Manifest, Variant, file_hash

TEXT = "Angela Merkel visited IBM in New York."
SPANS = [(0, 13, "PER"), (22, 25, "ORG"), (29, 37, "LOC")]

LABELS = ("PER", "ORG", "LOC")
TAGS = tags_of(LABELS, "IOB2")
OTHER = {"O": 8.0}
SCORES: dict[str, dict[str, float]] = {
    "angela": {"B-PER": 8},
    "merkel": {"I-PER": 8, "B-PER": 6},
    "אנגלה": {"B-PER": 8},
    "ibm": {"B-ORG": 8},
    "new": {"B-LOC": 6, "O": 4},
    "york": {"I-LOC": 8, "B-LOC": 7},
    "北": {"B-LOC": 8},
    "京": {"I-LOC": 8},
    "🗼": {"B-LOC": 8},
    "perhaps": {"B-PER": 2, "O": 1},
    "apple": {"B-ORG": 0.5, "O": 1},
}
"""Logits of the sub-tokens that are more than `O`."""

POISON = "poison"
"""A word whose id lies outside the table: the runtime fails on every batch that holds it."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    *SCORES,
    *_LETTERS,
    *(f"##{letter}" for letter in _LETTERS),
    POISON,
]


def tiny_tokenizer() -> RustTokenizer:
    """Known names are one sub-token, other Latin words one a letter, the rest `[UNK]`."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = RustTokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def tiny_graph(
    scores: Mapping[str, Mapping[str, float]] = SCORES, context: bool = False, shapes: bool = False
) -> onnx.ModelProto:
    """The network.

    Args:
        scores: logits of a sub-token, `OTHER` where not given.
        context: each sub-token feels its neighbours, and so a window's edge.
        shapes: an input `token_type_ids` takes word shapes, and a Capitalised word is more of an `ORG`.
    """
    table = np.zeros((len(VOCABULARY) - 1, len(TAGS)), np.float32)
    for row, token in enumerate(VOCABULARY[:-1]):
        for tag, score in scores.get(token, OTHER).items():
            table[row, TAGS.index(tag)] = score
    names = ["input_ids", "attention_mask"]
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "last")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
    ]
    source = "looked_up"
    if shapes:
        names.append("token_type_ids")
        shape_table = np.zeros((6, len(TAGS)), np.float32)
        shape_table[2, TAGS.index("B-ORG")] = 1
        weights.append(numpy_helper.from_array(shape_table, "shape_table"))
        nodes.append(helper.make_node("Gather", ["shape_table", "token_type_ids"], ["by_shape"]))
        nodes.append(helper.make_node("Add", [source, "by_shape"], ["seen"]))
        source = "seen"
    if context:
        eye = np.eye(len(TAGS), dtype=np.float32)
        inside = [TAGS.index(tag.replace("B-", "I-")) for tag in TAGS]  # who stands by a B is likelier an I
        beside = eye[inside].T / 4
        kernel = np.stack([beside, eye, beside], axis=2)
        weights.append(numpy_helper.from_array(kernel, "kernel"))
        nodes.append(helper.make_node("Mul", [source, "column"], ["masked"]))
        nodes.append(helper.make_node("Transpose", ["masked"], ["columns"], perm=[0, 2, 1]))
        nodes.append(helper.make_node("Conv", ["columns", "kernel"], ["mixed"], pads=[1, 1]))
        nodes.append(helper.make_node("Transpose", ["mixed"], ["logits"], perm=[0, 2, 1]))
    else:
        nodes.append(helper.make_node("Mul", [source, "column"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "length"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "length", len(TAGS)])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tiny_version(
    models: Path,
    name: str = "ner-en",
    version: int = 1,
    *,
    ibm: str = "ORG",
    scores: Mapping[str, Mapping[str, float]] = SCORES,
    context: bool = False,
    shapes: bool = False,
    graph: onnx.ModelProto | None = None,
    **changes: Any,
) -> Path:
    """Write `<models>/<name>/<version>/` and return it.

    Args:
        ibm: what IBM is, to tell versions apart.
        scores, context, shapes: see `tiny_graph`.
        graph: another network than these make.
        changes: fields of the manifest.
    """
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    scores = {**scores, "ibm": {f"B-{ibm}": 8.0}}
    onnx.save(graph or tiny_graph(scores, context, shapes), folder / "model.fp32.onnx")
    inputs = {"input_ids": "ids", "attention_mask": "mask"}
    golden = [GoldenEntity(start=s, end=e, label=ibm if tag == "ORG" else tag) for s, e, tag in SPANS]
    fields: dict[str, Any] = {
        "name": name,
        "version": version,
        "created": "2026-01-01T00:00:00+00:00",
        "description": "Looks names up in a table.",
        "languages": ["en"],
        "license": "Apache-2.0",
        "labels": LABELS,
        "tags": TAGS,
        "scheme": "IOB2",
        "inputs": inputs | ({"token_type_ids": "word_shape"} if shapes else {}),
        "max_length": 64,
        "stride": 16,
        "variants": [Variant(precision="fp32", file="model.fp32.onnx", providers=(CPU, CUDA))],
        "files": listed(folder),
        "golden": [Golden(text=TEXT, entities=tuple(golden))],
    }
    manifest = Manifest.model_validate(fields | changes)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def listed(folder: Path) -> dict[str, File]:
    """Every file of a version folder but its manifest, as the manifest lists it."""
    return {
        path.name: File(size=path.stat().st_size, sha256=file_hash(path))
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of a manifest without asking whether they are right."""
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_graph(folder: Path, graph: onnx.ModelProto) -> None:
    """Another network in a version folder, and the manifest says so."""
    onnx.save(graph, folder / "model.fp32.onnx")
    edit_manifest(folder, files={name: file.model_dump() for name, file in listed(folder).items()})
