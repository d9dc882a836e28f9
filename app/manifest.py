"""The manifest describes a model version. This module reads it and checks the version's files against it.

A version is a folder `<models>/<name>/<version>/`, and its `manifest.json` is the whole contract.
Only JSON and ONNX are read, never pickles; every path stays inside the folder; sizes and hashes
are checked before a runtime reads a file.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import NerveError, NotChecked, VersionRefused
from app.files import OddFile, of_the_machine, read_bytes, regular
from app.labels import Scheme, WordRule, split_tag, tags_of

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"

MAX_BYTES = 4 * 1024**2
"""Most bytes of a manifest, some 200 times those of one with 40 golden texts."""

MAX_FILES = 1000
"""Most files and folders of a version."""

_MOST_VALUES = 50_000
"""Most values in a manifest, apart from `metrics` and `lineage`: each that is wrong costs kilobytes."""

_FREE = ("metrics", "lineage")
"""Fields of a manifest that hold whatever its maker wants to remember."""

_MOST_SAID = 300
"""Most characters of a message that come from a manifest, which anybody may have written."""

Feature = Literal["ids", "mask", "zeros", "word_shape"]
Precision = Literal["fp32", "fp16", "int8"]


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ".." in parts:
        raise ValueError(f"path {path!r} must stay inside the version's folder")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Member = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*/[1-9][0-9]*$")]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Method = Literal["mean", "vote"]


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Contract):
    """Holds the size and hash of a file of the version."""

    size: int = Field(ge=0, description="bytes")
    sha256: Sha256


class Variant(_Contract):
    """Describes one ONNX file and the execution providers that it is meant for."""

    precision: Precision
    file: RelativePath
    providers: tuple[str, ...] = Field(
        description="ONNX Runtime execution providers it is meant for, best first"
    )
    metrics: dict[str, Any] = Field({}, description="what was measured of this variant")


class GoldenEntity(_Contract):
    """Holds an entity that a golden text must give; its offsets are code points."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)
    label: str


class Golden(_Contract):
    """Holds a text and exactly the entities that this version must find in it."""

    text: str
    entities: tuple[GoldenEntity, ...]


class Manifest(_Contract):
    """Holds the content of a `manifest.json` of format version 1. Unknown keys are refused.

    An ensemble has no network, so it has no variants and inputs, and its `tokenizer`, `output`,
    `max_length` and `stride` have no effect: those of each member count.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: int = Field(ge=1)
    created: str = Field(description="ISO 8601, UTC")
    description: str = ""
    languages: tuple[str, ...] = ()
    license: str = ""
    kind: Literal["single", "ensemble"] = "single"
    labels: tuple[str, ...] = Field(min_length=1, description="entity types")
    tags: tuple[str, ...] = Field(min_length=2, description="the tag of each logit column")
    scheme: Scheme
    words: WordRule = "bert"
    inputs: dict[str, Feature] = Field({}, description="which feature feeds each ONNX input")
    output: str = Field("logits", description="the ONNX output with shape (rows, length, tags)")
    tokenizer: RelativePath = "tokenizer.json"
    max_length: int = Field(ge=8, description="window, in sub-tokens, special tokens included")
    stride: int = Field(ge=0, description="overlap of windows, in sub-tokens")
    temperature: float = Field(1.0, gt=0)
    thresholds: dict[str, float] = Field({}, description="least score per label, default 0")
    variants: tuple[Variant, ...] = ()
    members: tuple[Member, ...] = Field((), description='of an ensemble: "ner-en/2"')
    member_hashes: dict[Member, Sha256] = Field(
        {}, description="SHA-256 of each member's manifest.json: another member is another ensemble"
    )
    weights: tuple[Weight, ...] = Field((), description="of each member; by default all are alike")
    method: Method | None = Field(None, description="mean of word posteriors, or vote over spans")
    files: dict[RelativePath, File] = {}
    golden: tuple[Golden, ...] = ()
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "O" not in self.tags or len(set(self.tags)) != len(self.tags):
            raise ValueError("tags must be distinct and hold O")
        named = {split_tag(tag)[1] for tag in self.tags if tag != "O"}
        if named != set(self.labels):
            raise ValueError(f"tags name {sorted(named)}, labels {sorted(self.labels)}")
        if unknown := set(self.thresholds) - set(self.labels):
            raise ValueError(f"thresholds for unknown labels {sorted(unknown)}")
        if self.stride >= self.max_length - 2:
            raise ValueError(f"stride {self.stride} leaves no step in {self.max_length} sub-tokens")
        if self.kind == "ensemble":
            self._ensemble()
        else:
            if self.members or self.member_hashes or self.weights or self.method:
                raise ValueError("members, member_hashes, weights and method are an ensemble's")
            if not self.variants or "ids" not in self.inputs.values():
                raise ValueError("a single model needs variants, and an input fed by ids")
            for file in (self.tokenizer, *(variant.file for variant in self.variants)):
                if file not in self.files:
                    raise ValueError(f"files does not list {file!r}")
        return self

    def _ensemble(self) -> None:
        if self.variants or self.inputs:
            raise ValueError("an ensemble has no variants and inputs; its members have")
        if len(self.members) < 2 or len(set(self.members)) != len(self.members):
            raise ValueError(f"an ensemble needs two or more distinct members, not {list(self.members)}")
        if f"{self.name}/{self.version}" in self.members:
            raise ValueError("an ensemble cannot be a member of itself; name single models")
        if set(self.member_hashes) != set(self.members):
            raise ValueError("member_hashes must hold the hash of each member, and no other")
        if self.method is None:
            raise ValueError("an ensemble needs a method, mean or vote")
        if self.weights and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members")
        if self.method == "vote" and self.temperature != 1:
            raise ValueError("a vote has no temperature; its members have")
        if missing := set(tags_of(self.labels, self.scheme)) - set(self.tags):
            # a decision that other members cut needs a tag for each part
            raise ValueError(f"an ensemble has all tags of its scheme, and {sorted(missing)} are missing")

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a version folder.

    Raises:
        VersionRefused: the manifest is missing, too large, of another format version, or wrong; or the
            folder has another name or version.
        NotChecked: this machine cannot read it.
    """
    return parse_manifest(folder, manifest_bytes(folder))


def manifest_bytes(folder: Path) -> bytes:
    """Return the content of a version's manifest, unparsed.

    Raises:
        VersionRefused: it is missing, no regular file, or too large.
        NotChecked: this machine cannot read it.
    """
    try:
        return read_bytes(folder / MANIFEST, MAX_BYTES)
    except FileNotFoundError:
        raise VersionRefused(
            f"{_where(folder)}: {MANIFEST} is missing; the folder is still being copied, or is no version"
        ) from None
    except (OSError, OddFile) as error:
        raise unreadable(_where(folder), MANIFEST, error) from error


def unreadable(where: str, name: str, error: OSError | OddFile) -> NerveError:
    """Return the error for a file of a version that cannot be read: a refusal, if that is its own fault."""
    if isinstance(error, OddFile):
        return VersionRefused(f"{where}: {name} {error}; copy the folder again")
    said = error.strerror or str(error)
    if of_the_machine(error):
        return NotChecked(f"{where}: was not checked ({name} cannot be read: {said})")
    return VersionRefused(f"{where}: {_short(name)} cannot be read: {said}; copy the folder again")


def parse_manifest(folder: Path, content: bytes) -> Manifest:
    """Parse the content of a version's manifest.

    Raises:
        VersionRefused: it is of another format version, or wrong; or the folder has another name or
            version.
    """
    where = _where(folder)
    try:
        fields = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise VersionRefused(f"{where}: {MANIFEST} cannot be read: {error}; copy it again") from None
    found = fields.get("format_version") if isinstance(fields, dict) else None
    if found != FORMAT_VERSION:
        raise VersionRefused(
            f"{where}: {MANIFEST} has format_version {_short(repr(found))}, this Nerve reads "
            f"{FORMAT_VERSION}; export the model again, or update Nerve"
        )
    if (count := _count(value for key, value in fields.items() if key not in _FREE)) > _MOST_VALUES:
        raise VersionRefused(
            f"{where}: {MANIFEST} has {count} values or more, and {_MOST_VALUES} are allowed outside of "
            f"{' and '.join(_FREE)}; keep fewer golden texts"
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            _short(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}") for e in error.errors()[:5]
        )
        raise VersionRefused(f"{where}: {MANIFEST} is wrong: {problems}; export the model again") from None
    if (manifest.name, str(manifest.version)) != (folder.parent.name, folder.name):
        raise VersionRefused(
            f"{where}: {MANIFEST} is of {_short(manifest.name)}/{manifest.version}; rename the folder"
        )
    return manifest


def _count(values: Iterable[Any]) -> int:
    """Count values and those inside of them, until there are more than `_MOST_VALUES`."""
    count, waiting = 0, [list(values)]
    while waiting and count <= _MOST_VALUES:
        inside = waiting.pop()
        count += len(inside)
        waiting += [
            list(v.values()) if isinstance(v, dict) else v for v in inside if isinstance(v, dict | list)
        ]
    return count


def verify_files(folder: Path, manifest: Manifest, kept: Collection[str] = ()) -> dict[str, bytes]:
    """Check the place, size and hash of every file in the manifest, and return what some of them hold.

    Each file is read once, so the content that is returned is the content that was checked.

    Args:
        kept: names of the files whose content is returned.

    Raises:
        VersionRefused: a file is missing, lies outside of the folder, or differs.
        NotChecked: this machine cannot read a file.
    """
    found = {}
    for name, meant in manifest.files.items():
        try:
            content = _verify_file(folder, name, meant, name in kept)
        except (OSError, OddFile) as error:
            raise unreadable(_where(folder), name, error) from error
        if content is not None:
            found[name] = content
    return found


def _verify_file(folder: Path, name: str, meant: File, keep: bool) -> bytes | None:
    where, path = _where(folder), folder / name
    if not path.exists():
        raise VersionRefused(f"{where}: {name} is missing; copy the folder again")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise VersionRefused(f"{where}: {name} leads out of the folder; replace the link")
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != meant.size:
            raise VersionRefused(
                f"{where}: {name} has {size} bytes, the manifest says {meant.size}; "
                "it is still being copied, or must be copied again"
            )
        content = file.read(size) if keep else None
        if content is None:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            found = hashlib.sha256(content).hexdigest()
    if found != meant.sha256:
        raise VersionRefused(
            f"{where}: {name}: sha256 differs from the manifest (got {found[:8]}…, want "
            f"{meant.sha256[:8]}…); export it again or restore the file"
        )
    return content


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}…"


def _where(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
