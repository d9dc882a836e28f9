"""This module publishes a version again with its int8 graph packed, see `packing`."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx

from app.engine.model import Network
from app.engine.runtimes.runtime import Logits, Running
from app.engine.runtimes.session import CPU, OnnxSession
from app.engine.text.tokenizer import Tokenizer
from app.manifest import MANIFEST, Manifest, Variant, read_manifest, verify_files
from app.versions.storage.signatures import SIGNATURE
from training.export.golden import CANDIDATES
from training.export.package import CARD, listed_files, new_version, next_version
from training.export.packing import pack_rows

_BATCH_TOKENS = 512
"""The size of a batch in sub-tokens; one batch holds all of `CANDIDATES`."""


def repack(version: Path, number: int | None = None) -> Path:
    """Publish a copy of a version in which only the int8 graph differs: it is packed.

    Args:
        version: the folder of a version with an int8 graph.
        number: the new version's number; by default the next free one.

    Returns:
        The folder of the new version.

    Raises:
        VersionRefused: the version is damaged.
        ValueError: it has no int8 graph, the graph cannot be packed, or packing changes logits.
        FileExistsError: the new version exists.
    """
    manifest = read_manifest(version)
    verify_files(version, manifest)
    where = f"{manifest.name}/{manifest.version}"
    files = {variant.file: None for variant in manifest.variants if variant.precision == "int8"}
    if not files:
        raise ValueError(f"{version}: {where} has no int8 graph, and only int8 graphs are packed")
    models = version.parent.parent
    number = number or next_version(models, manifest.name)
    with new_version(models, manifest.name, number) as folder:
        # The signature does not match the new manifest.
        shutil.copytree(version, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SIGNATURE))
        for name in files:
            _pack(folder / name, where)
            before, after = (_logits(one, name, manifest) for one in (version, folder))
            if not all(map(np.array_equal, before, after)):
                raise ValueError(f"{name} of {where}: packed, it gives other logits")
        made = f"Its graph is that of {where}, packed: it gives the same logits, to the bit."
        if (folder / CARD).exists():
            _write_card(folder / CARD, manifest, number, made)
        listed = listed_files(folder, manifest.files)
        variants = tuple(
            _resized(variant, listed[variant.file].size) if variant.file in files else variant
            for variant in manifest.variants
        )
        packed = manifest.model_copy(
            update={
                "version": number,
                "variants": variants,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": listed,
                "lineage": manifest.lineage | {"packed": made},
            }
        )
        (folder / MANIFEST).write_text(packed.to_json(), encoding="utf-8")
    return models / manifest.name / str(number)


def _pack(path: Path, where: str) -> None:
    model = onnx.load(path)
    if not pack_rows(model):
        raise ValueError(
            f"{path.name} of {where}: there is no attention in it of the form that is packed; it is packed "
            "already, has none, or was exported before that form: export its checkpoint again"
        )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _logits(folder: Path, file: str, manifest: Manifest) -> list[Logits]:
    """Return the logits of some sentences, through the serving engine."""
    tokenizer = Tokenizer.from_file(folder / manifest.tokenizer, manifest.words)
    session = OnnxSession(folder / file, CPU, 1, manifest.output)
    network = Network(manifest, tokenizer, Running(session, session, 1, CPU, 1, _BATCH_TOKENS))
    try:
        return network.logits(CANDIDATES)
    finally:
        network.close()


def _resized(variant: Variant, size: int) -> Variant:
    """Return a variant with its new size in bytes, without the speed of the old graph."""
    metrics = {name: value for name, value in variant.metrics.items() if name != "tokens_per_second"}
    return variant.model_copy(update={"metrics": metrics | {"bytes": size}})


def _write_card(path: Path, manifest: Manifest, number: int, made: str) -> None:
    """Change the version's number in the card, and add how the version was made."""
    card, told = path.read_text(encoding="utf-8"), str(manifest.lineage.get("made", ""))
    card, found, rest = card.partition(told) if told else (card, "", "")
    name = re.compile(rf"(?<![\w.-]){re.escape(manifest.name)}/{manifest.version}(?!\d)")
    card, rest = (name.sub(f"{manifest.name}/{number}", part) for part in (card, rest))
    path.write_text(f"{card}{found} {made}{rest}" if found else card, encoding="utf-8")
