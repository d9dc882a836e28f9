"""This module packages an ensemble: a version folder that names its members and holds no network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.labels import tags_of
from app.manifest import MANIFEST, Manifest, Method, file_hash, read_manifest
from app.versions.loading.loader import load_version
from training.evaluation.evaluate import as_text
from training.export.card import front_matter
from training.export.golden import choose_golden
from training.export.package import CARD, environment, listed_files, new_version, next_version

_MEANING = {
    "mean": "the mean of their word posteriors",
    "vote": "a vote over their spans",
}


Measure = Callable[[Path], Mapping[str, Any]]
"""Measures the version in a folder, for its manifest; the card shows `test`, a result of `evaluate`."""


@dataclass(frozen=True)
class Members:
    """Names the members of an ensemble, and how their answers are combined.

    Attributes:
        versions: two or more versions, such as `ner-en/2`.
        method: the way their answers become one.
        weights: a positive weight for each version; None gives all the same weight.
    """

    versions: Sequence[str]
    method: Method = "mean"
    weights: Sequence[float] | None = None


def package_ensemble(
    name: str,
    members: Members,
    models: Path,
    version: int | None = None,
    description: str = "",
    candidates: Sequence[str] = (),
) -> Path:
    """Publish `<models>/<name>/<version>/`, an ensemble of versions in the same models folder.

    Args:
        version: by default the next free number.
        candidates: texts to choose golden texts from; by default the members' golden texts.

    Raises:
        FileExistsError: the version exists.
        VersionRefused: a member fails its checks, or the members cannot be combined.
        ValueError: a member is missing, there are fewer than two, or the weights do not fit them.
    """
    manifest = ensemble_manifest(name, members, models, version, description)
    return publish_ensemble(manifest, models, candidates=candidates)


def ensemble_manifest(
    name: str, members: Members, models: Path, version: int | None = None, description: str = ""
) -> Manifest:
    """Return the manifest of an ensemble of these members, with their present hashes and no metrics.

    Raises:
        VersionRefused: a member's manifest is wrong.
        ValueError: a member is missing, there are fewer than two, or the weights do not fit them.
    """
    for member in members.versions:
        if not (models / member / MANIFEST).exists():
            raise ValueError(
                f"member {member}: {models / member} holds no version; name versions that lie in {models}, "
                "such as ner-en/1"
            )
    found = {member: read_manifest(models / member) for member in members.versions}
    hashes = {member: file_hash(models / member / MANIFEST) for member in members.versions}
    if not found:
        raise ValueError("an ensemble needs two or more members, such as ner-en/1; none was named")
    first, *others = found.values()
    read = [language for language in first.languages if all(language in one.languages for one in others)]
    try:
        return Manifest(
            kind="ensemble",
            name=name,
            version=version or next_version(models, name),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            description=description,
            languages=tuple(read),
            license=" AND ".join(sorted({member.license for member in found.values() if member.license})),
            labels=first.labels,
            tags=tags_of(first.labels, first.scheme),
            scheme=first.scheme,
            words=first.words,
            max_length=first.max_length,
            stride=first.stride,
            members=tuple(members.versions),
            member_hashes=hashes,
            weights=tuple(members.weights or ()),
            method=members.method,
            lineage={
                "members": [
                    {"version": member, "manifest_sha256": hashes[member]} for member in members.versions
                ],
                **environment(),
            },
        )
    except ValidationError as error:
        problems = (": ".join([*map(str, one["loc"]), one["msg"]]) for one in error.errors())
        raise ValueError(f"{name}: {'; '.join(problems)}") from None


def publish_ensemble(
    manifest: Manifest,
    models: Path,
    measure: Measure | None = None,
    candidates: Sequence[str] = (),
) -> Path:
    """Choose golden texts, measure, write the card, check that the version loads, and publish it.

    Args:
        manifest: from `ensemble_manifest`, perhaps with another temperature or thresholds.
        candidates: see `package_ensemble`.

    Raises:
        FileExistsError: the version exists; versions never change once published.
        VersionRefused: a member is missing or fails its checks, or the members cannot be combined.
    """
    members = [read_manifest(models / member) for member in manifest.members]
    texts = [golden.text for member in members for golden in member.golden]
    with new_version(models, manifest.name, manifest.version, manifest.members) as draft:
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        loaded = load_version(draft)
        try:
            golden = choose_golden([loaded.model], candidates or list(dict.fromkeys(texts)))
        finally:
            loaded.model.close()
        metrics = dict(measure(draft)) if measure else {}
        manifest = manifest.model_copy(update={"golden": golden, "metrics": metrics})
        (draft / CARD).write_text(ensemble_card(manifest, members), encoding="utf-8")
        manifest = manifest.model_copy(update={"files": listed_files(draft, [CARD])})
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        load_version(draft).model.close()
    return models / manifest.name / str(manifest.version)


def ensemble_card(manifest: Manifest, members: Sequence[Manifest]) -> str:
    """Return `README.md` of an ensemble, in Markdown.

    Args:
        members: the manifests of the members, in the order of `manifest.members`.
    """
    assert manifest.method is not None
    folder = f"models/{manifest.name}/{manifest.version}"
    weights = manifest.weights or (1.0,) * len(members)
    rows = "\n".join(
        f"| {member.name}/{member.version} | {weight:g} | {member.license or 'see its card'} "
        f"| {member.description} |"
        for member, weight in zip(members, weights, strict=True)
    )
    head, table = "It was not measured when it was packaged. Measure it with", ""
    if "test" in manifest.metrics:
        head = (
            "Exact-span entity scores in percent, from raw text, through the serving engine. Reprint with"
        )
        table = f"\n{as_text(manifest.metrics['test'])}\n"
    return f"""{front_matter(manifest.license, manifest.languages)}
# {manifest.name}/{manifest.version}

{manifest.description}

Labels: {", ".join(manifest.labels)}. {len(members)} versions that answer as one, by
{_MEANING[manifest.method]}; served by [Nerve](../../../README.md), from a models folder that holds them
too:

    curl -s localhost:8000/ner -H 'Content-Type: application/json' \\
      -d '{{"model": "{manifest.name}", "text": "Angela Merkel visited IBM in New York."}}'

## How well it does

{head}

    nerve-train evaluate {folder} RECIPE
{table}
## Members

| member | weight | licence | what it is |
|---|---:|---|---|
{rows}

`manifest.json` holds a hash of each member's manifest. Where a member has changed, this version is refused:
package the ensemble again under a new number.

## Licence

It holds no weights. Each member's are under that member's own licence, as above.
"""
