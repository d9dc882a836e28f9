"""Packaging: a version's folder, filled where nobody looks for it and renamed when it is whole."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.engine.runtimes.cuda import CUDA
from app.engine.runtimes.session import CPU
from app.files import sync
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
from training.folders import sync_folder

CARD = "README.md"

_LIBRARIES = ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime", "tokenizers", "numpy")


@dataclass(frozen=True)
class Package:
    """All of a version but its number and its measurements.

    Attributes:
        files: the ONNX file of each precision, best first.
        tokenizer: a `tokenizer.json`.
        inputs: the feature that feeds each ONNX input.
        variant_metrics: what was measured of each precision.
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


@contextmanager
def new_version(models: Path, name: str, number: int, members: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to fill, which becomes `<models>/<name>/<number>/` when the block ends without error.

    The version appears whole or not at all. While it is filled it loads as any other, under the same name
    and number, from a hidden folder of the models folder.

    Args:
        members: versions in the models folder that an ensemble finds beside it.

    Raises:
        FileExistsError: the version exists.
    """
    check_free(models, name, number)
    hidden, target = models / f".new-{name}-{number}", models / name / str(number)
    shutil.rmtree(hidden, ignore_errors=True)
    draft = hidden / name / str(number)
    draft.mkdir(parents=True)
    try:
        for member in members:
            (hidden / member).parent.mkdir(exist_ok=True)
            (hidden / member).symlink_to((models / member).resolve(), target_is_directory=True)
        yield draft
        sync_folder(draft)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def check_free(models: Path, name: str, number: int) -> None:
    """Refuse to write a version that is there.

    Raises:
        FileExistsError: it is.
    """
    target = models / name / str(number)
    if target.exists():
        raise FileExistsError(f"{target}: exists; versions never change, publish another number")


def fill_version(folder: Path, package: Package, card: str = "") -> None:
    """Have a version's folder hold this package and no other graph; graphs that it holds are not copied.

    Args:
        folder: `.../<name>/<number>`, as `new_version` gives it.
        card: the model card, in Markdown; none is written by default.
    """
    files = {f"model.{precision}.onnx": path for precision, path in package.files.items()}
    files["tokenizer.json"] = package.tokenizer
    for path in folder.glob("model.*.onnx"):
        if path.name not in files:
            path.unlink()
    for name, source in files.items():
        if not (folder / name).exists():
            shutil.copyfile(source, folder / name)
    listed = sorted(files)
    if card:
        (folder / CARD).write_text(card, encoding="utf-8")
        listed.insert(0, CARD)
    manifest = Manifest(
        name=package.name,
        version=int(folder.name),
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
        files=listed_files(folder, listed),
        golden=tuple(package.golden),
        metrics=dict(package.metrics),
        lineage=dict(package.lineage),
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def listed_files(folder: Path, names: Iterable[str]) -> dict[str, File]:
    """The size and hash of these files of a folder, for its manifest."""
    return {
        name: File(size=(folder / name).stat().st_size, sha256=file_hash(folder / name)) for name in names
    }


def write_version(package: Package, models: Path, number: int, card: str = "") -> Path:
    """Write `<models>/<name>/<number>/`; it appears whole or not at all.

    Raises:
        FileExistsError: the version exists; versions never change once published.
    """
    with new_version(models, package.name, number) as folder:
        fill_version(folder, package, card)
    return models / package.name / str(number)


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
