"""Packaging: a version folder that the server loads, made whole under another name and renamed."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.engine.runtimes.cuda import CUDA
from app.engine.runtimes.session import CPU
from app.labels import Scheme, WordRule
from app.manifest import (
    MANIFEST,
    Feature,
    File,
    Golden,
    Manifest,
    Precision,
    Variant,
    file_hash,
)
from training.folders import replaced_folder

_LIBRARIES = ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime", "tokenizers", "numpy")


@dataclass(frozen=True)
class Package:
    """All of a version but its number and its measurements.

    Attributes:
        files: ONNX file of each precision, best first.
        tokenizer: a `tokenizer.json`.
        inputs: the feature that feeds each ONNX input.
    """

    name: str
    labels: Sequence[str]
    tags: Sequence[str]
    scheme: Scheme
    files: Mapping[Precision, Path]
    tokenizer: Path
    inputs: Mapping[str, Feature]
    max_length: int
    stride: int
    words: WordRule = "bert"
    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    description: str = ""
    languages: Sequence[str] = ()
    license: str = ""
    golden: Sequence[Golden] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    variant_metrics: Mapping[Precision, Mapping[str, Any]] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, **values: Any) -> "Package":
        """A copy with other values."""
        return replace(self, **values)


def write_version(package: Package, models: Path, number: int, card: str = "") -> Path:
    """Write `<models>/<name>/<number>/`; it appears whole or not at all.

    Raises:
        FileExistsError: the version exists; versions never change once published.
    """
    target = models / package.name / str(number)
    if target.exists():
        raise FileExistsError(f"{target}: exists; a version never changes, publish another number")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(target) as folder:
        shutil.copyfile(package.tokenizer, folder / "tokenizer.json")
        for precision, path in package.files.items():
            shutil.copyfile(path, folder / f"model.{precision}.onnx")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
        manifest = Manifest(
            name=package.name,
            version=number,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            description=package.description,
            languages=tuple(package.languages),
            license=package.license,
            labels=tuple(package.labels),
            tags=tuple(package.tags),
            scheme=package.scheme,
            words=package.words,
            temperature=package.temperature,
            thresholds=dict(package.thresholds),
            inputs=dict(package.inputs),
            max_length=package.max_length,
            stride=package.stride,
            variants=tuple(
                Variant(
                    precision=precision,
                    file=f"model.{precision}.onnx",
                    providers=(CUDA,) if precision == "fp16" else (CPU, CUDA),
                    metrics=dict(package.variant_metrics.get(precision, {})),
                )
                for precision in package.files
            ),
            files={
                path.name: File(size=path.stat().st_size, sha256=file_hash(path))
                for path in sorted(folder.iterdir())
            },
            golden=tuple(package.golden),
            metrics=dict(package.metrics),
            lineage=dict(package.lineage),
        )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return target


def next_version(models: Path, name: str) -> int:
    """One above the highest version of a model in a models folder."""
    folder = models / name
    taken = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
    return max(taken, default=0) + 1


def features_of(inputs: Sequence[str], word_shapes: bool) -> dict[str, Feature]:
    """Which feature feeds each input of an exported graph; `token_type_ids` carry shapes or nothing.

    Raises:
        ValueError: an input that is not known.
    """
    known: dict[str, Feature] = {
        "input_ids": "ids",
        "attention_mask": "mask",
        "token_type_ids": "word_shape" if word_shapes else "zeros",
        "word_shape": "word_shape",
    }
    if unknown := set(inputs) - set(known):
        raise ValueError(f"the graph has inputs {sorted(unknown)}, which nothing can feed")
    return {name: known[name] for name in inputs}


def environment() -> dict[str, Any]:
    """Library versions and the git commit, for a manifest's lineage."""
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except OSError:  # no git here
        commit = ""
    return {"libraries": libraries, "git_commit": commit}
