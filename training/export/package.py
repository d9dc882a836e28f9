"""This module fills a version's folder in a hidden place and renames it when it is complete."""

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
    """Holds the content of a version, without its number.

    Attributes:
        files: the ONNX file of each precision, best first.
        tokenizer: the path of a `tokenizer.json`.
        inputs: the feature that feeds each ONNX input.
        variant_metrics: the measurements of each precision.
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
        """Return a copy with these values changed."""
        return replace(self, **values)


@contextmanager
def new_version(models: Path, name: str, number: int, members: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `<models>/<name>/<number>/` when the block ends without error.

    The folder lies hidden in the models folder, and has the version's name and number, so that the
    version can be loaded and measured before it is published.

    Args:
        members: members of an ensemble, such as `ner-en/2`, which are linked beside the folder.

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
    """Raise FileExistsError if the version exists."""
    target = models / name / str(number)
    if target.exists():
        raise FileExistsError(f"{target}: exists; versions never change, publish another number")


def fill_version(folder: Path, package: Package, card: str = "") -> None:
    """Write a package into a version's folder; keep its graphs that the package names, remove others.

    Args:
        folder: a folder `.../<name>/<number>` of `new_version`.
        card: the model card, in Markdown; without it no card is written.
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
    """Return the size and hash of these files of a folder, for its manifest."""
    return {
        name: File(size=(folder / name).stat().st_size, sha256=file_hash(folder / name)) for name in names
    }


def write_version(package: Package, models: Path, number: int, card: str = "") -> Path:
    """Write the complete version `<models>/<name>/<number>/`.

    Raises:
        FileExistsError: the version exists; versions never change once published.
    """
    with new_version(models, package.name, number) as folder:
        fill_version(folder, package, card)
    return models / package.name / str(number)


def next_version(models: Path, name: str) -> int:
    """Return the highest version number of a model, plus 1."""
    folder = models / name
    taken = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
    return max(taken, default=0) + 1


def features_of(inputs: Sequence[str], word_shapes: bool) -> dict[str, Feature]:
    """Return the feature for each input of a graph; `token_type_ids` takes word shapes or zeros.

    Raises:
        ValueError: no feature is known for an input.
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
    """Return library versions and the git commit, for a manifest's lineage."""
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
    except OSError:  # git is not installed
        commit = ""
    return {"libraries": libraries, "git_commit": commit}
