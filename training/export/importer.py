"""This module imports a Hugging Face token-classification checkpoint as a version."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from app.engine.model import Model
from app.engine.text.tokenizer import Tokenizer
from app.labels import Scheme, WordRule
from app.manifest import Golden, Manifest, Precision
from app.versions.loading.loaded import LoadedVersion
from app.versions.loading.loader import load_version
from app.versions.loading.options import LoadOptions
from training.export.card import front_matter
from training.export.golden import CANDIDATES, choose_golden
from training.export.onnx_file import export_onnx, input_names, keep_columns
from training.export.package import (
    Package,
    check_free,
    environment,
    features_of,
    fill_version,
    new_version,
    next_version,
)
from training.export.quantize import quantize_by_row
from training.models.columns import read_columns
from training.models.transformer import check_kind, fast_tokenizer, find_encoder, load_tokenizer
from training.progress import Say

_log = logging.getLogger(__name__)

_USUAL_LENGTH = 256  # window in sub-tokens, by default
_SHORTEST = 8  # sub-tokens of the shortest window


@dataclass(frozen=True)
class ImportOptions:
    """Describes a checkpoint to import, and the version to make of it.

    Attributes:
        scheme: the tagging scheme; needed where the tags are ambiguous. `B` and `I` are read as IOB2
            unless a label has no `B`; give IOB1 for checkpoints of CoNLL-2003 as it was published.
        words: the units that had labels in training. `bert` separates punctuation ("Jean", "-", "Pierre"),
            for corpora in which "," and "." are tokens. `space` is for corpora in which a hyphen or an
            apostrophe stays within its token ("Jean-Pierre", "O'Neil"), as the network learned no labels
            for parts of a token. With `space`, punctuation that touches an entity belongs to the entity
            ("Paris,").
        precision: fp32, or int8 by row.
        max_length: the window in sub-tokens; by default 256, or less where the network has fewer positions.
        golden: sentences in the checkpoint's language to choose golden texts from; by default English ones.
    """

    scheme: Scheme | None = None
    words: WordRule = "bert"
    precision: Precision = "fp32"
    languages: Sequence[str] = ()
    license: str = ""
    description: str = ""
    max_length: int | None = None
    golden: Sequence[str] = ()


def import_checkpoint(
    checkpoint: str,
    name: str,
    models: Path,
    options: ImportOptions = ImportOptions(),
    version: int | None = None,
    say: Say = _log.info,
) -> Path:
    """Export a checkpoint, check that the server can load it, and publish it as a version.

    Args:
        checkpoint: a folder or hub id.
        version: the version's number; by default the next free one.
        say: receives messages about labels and measurements.

    Returns:
        The version's folder.

    Raises:
        ValueError: the checkpoint cannot be served; the message says why.
        FileExistsError: the version exists.
        VersionRefused: the exported version fails the server's checks.
    """
    number, precision = version or next_version(models, name), options.precision
    _check_target(name, number, models, precision)
    source, called = find_encoder(checkpoint), _called(checkpoint)
    config = _config(source)
    columns = read_columns(_columns(config, called), options.scheme)
    say(f"{called}: labels {', '.join(columns.labels)}; scheme {columns.scheme}, {columns.reason}")
    fast, tokenizer = fast_tokenizer(source), load_tokenizer(source, options.words)
    length = _window(called, _positions(config), fast.model_max_length, options.max_length)
    candidates = tuple(options.golden) or CANDIDATES
    _check_vocabulary(called, fast, config.vocab_size)
    unknown = _unknown_words(called, tokenizer, fast.unk_token_id, candidates)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fp32, int8 = work / "model.fp32.onnx", work / "model.int8.onnx"
        report = export_onnx(source, fp32, longest=length)
        say(f"fp32: logits within {report['parity_max_abs']:.1e} of PyTorch's")
        if len(columns.numbers) < config.num_labels:
            keep_columns(fp32, columns.numbers)
        files: dict[Precision, Path] = {"fp32": fp32}
        if precision == "int8":
            quantize_by_row(fp32, int8)
            files["int8"] = int8
        tokenizer.save(work / "tokenizer.json")
        package = Package(
            name=name,
            labels=columns.labels,
            tags=columns.tags,
            scheme=columns.scheme,
            files=files,
            tokenizer=work / "tokenizer.json",
            inputs=features_of(input_names(fp32), bool(getattr(config, "word_shapes", False))),
            max_length=length,
            stride=length // 4,
            words=options.words,
            description=options.description or f"{called}, imported.",
            languages=options.languages,
            license=options.license,
            lineage={
                "checkpoint": called,
                "revision": getattr(config, "_commit_hash", None) or "",
                "architecture": config.model_type,
                "scheme": f"{columns.scheme}, {columns.reason}",
                "words": options.words,
                "unknown_words": round(unknown, 4),
                "export": report,
                **environment(),
            },
        )
        with new_version(models, name, number) as draft:
            fill_version(draft, package)
            golden, f1 = _try(draft, files, candidates)
            say(_said_of(golden, f1, len(candidates)))
            notes = {"golden": "chosen" if golden else "none: no text gave entities with scores of 0.9"}
            if precision == "int8":
                notes["int8"] = "by row, 8-bit weights: made for CPUs with VNNI"
            package = package.changed(
                files={precision: files[precision]},
                golden=golden,
                variant_metrics={"int8": {"agreement_with_fp32": f1}},
                lineage={**package.lineage, **notes},
            )
            fill_version(draft, package, import_card(package, number, f1))
            load_version(draft).model.close()
    return models / name / str(number)


def import_card(package: Package, number: int, f1: float | None) -> str:
    """Return `README.md` of an imported version, in Markdown.

    Args:
        f1: F1, from 0 to 1, of the int8 network's entities against the fp32 network's; None without int8.
    """
    (precision,), lineage = package.files, package.lineage
    agreed = "" if f1 is None else f"\nEntities that int8 and fp32 agree on: {f1:.1%} (F1)."
    return f"""{front_matter(package.license, package.languages)}
# {package.name}/{number}

{package.description}

Labels: {", ".join(package.labels)}. Imported from `{lineage["checkpoint"]}`
({lineage["architecture"]}) as {precision}; nothing was trained.

Scheme: {lineage["scheme"]}. Words: `{package.words}`.

Logits of the fp32 graph are within {lineage["export"]["parity_max_abs"]:.1e} of PyTorch's.{agreed}
Golden texts: {len(package.golden)}. How well it does was not measured; `nerve-train evaluate` does.

## Licence

The weights: {package.license or "as the checkpoint states"}.
"""


def _check_target(name: str, number: int, models: Path, precision: Precision) -> None:
    """Check the name, the number and the precision before the export, which takes minutes."""
    pattern = Manifest.model_json_schema()["properties"]["name"]["pattern"]
    if not re.search(pattern, name):
        raise ValueError(f"name {name!r}: a model's name matches {pattern}")
    check_free(models, name, number)
    if precision not in ("fp32", "int8"):
        raise ValueError(f"precision {precision}: an import makes fp32 or int8")


def _called(checkpoint: str) -> str:
    """Return the hub id, or the folder's name without this machine's path, for the manifest."""
    return Path(checkpoint).resolve().name if Path(checkpoint).exists() else checkpoint


def _config(source: str) -> PretrainedConfig:
    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        raise ValueError(f"{source}: holds no config.json; give the folder that save_pretrained wrote")
    try:
        check_kind(source)
        return AutoConfig.from_pretrained(source)
    except (OSError, KeyError) as error:
        raise ValueError(f"{source}: is neither a folder nor a hub id that can be read: {error}") from error


def _columns(config: PretrainedConfig, called: str) -> list[str]:
    """Return the name of each logit column."""
    names = {int(column): str(name) for column, name in config.id2label.items()}
    if sorted(names) != list(range(len(names))):
        raise ValueError(
            f"{called}: id2label of its config.json names columns {sorted(names)}; name each from 0 on"
        )
    return [names[column] for column in range(len(names))]


def _window(called: str, positions: int, usual: int, wanted: int | None) -> int:
    """Return the window: `wanted`, or 256 sub-tokens limited by the network and its tokenizer."""
    if positions < _SHORTEST:
        raise ValueError(f"{called}: has positions for {positions} sub-tokens, serving needs {_SHORTEST}")
    if wanted is None:
        return min(_USUAL_LENGTH, positions, usual)
    if not _SHORTEST <= wanted <= positions:
        raise ValueError(f"max_length {wanted}: must be {_SHORTEST} to {positions} for {called}")
    return wanted


def _positions(config: PretrainedConfig) -> int:
    """Return the network's number of positions; RoBERTa's positions begin after the padding id."""
    with torch.device("meta"):
        network = AutoModelForTokenClassification.from_config(config)
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(config, "max_position_embeddings", _USUAL_LENGTH))


def _check_vocabulary(called: str, fast: PreTrainedTokenizerFast, rows: int) -> None:
    """Raise ValueError if the network has no embedding for some sub-token of the tokenizer."""
    specials = set(fast.all_special_ids)
    vocabulary = fast.get_vocab().items()
    beyond = sorted(token for token, number in vocabulary if number >= rows and number not in specials)
    if beyond:
        raise ValueError(
            f"{called}: its tokenizer has {len(beyond)} sub-tokens such as {beyond[0]!r} that the network "
            f"({rows} rows) lacks; give it the tokenizer that it was trained with"
        )


def _unknown_words(
    called: str, tokenizer: Tokenizer, unknown: int | None, candidates: Sequence[str]
) -> float:
    """Return the share of the candidates' words, without punctuation, that the tokenizer does not know.

    Raises:
        ValueError: the tokenizer knows none of the words.
    """
    read = [
        int(encoded.ids[first]) == unknown
        for text, encoded in zip(candidates, tokenizer.encode(candidates), strict=True)
        for first, start, end in zip(encoded.firsts, encoded.starts, encoded.ends, strict=True)
        if any(character.isalnum() for character in text[start:end])
    ]
    if all(read):
        raise ValueError(
            f"{called}: its tokenizer knows no word of {candidates[0]!r} and the others; is it the one "
            "that the checkpoint was trained with? If so, give golden texts in its language"
        )
    return sum(read) / len(read)


def _try(
    folder: Path, files: Mapping[Precision, Path], candidates: Sequence[str]
) -> tuple[tuple[Golden, ...], float | None]:
    """Load each variant as the server does; return golden texts and the F1 of int8 against fp32."""
    loaded: list[LoadedVersion] = []
    try:
        loaded.extend(load_version(folder, LoadOptions(variant=precision)) for precision in files)
        variants = [one.model for one in loaded]
        for variant in variants:
            variant.predict([" ".join(candidates) * 20])  # test full windows too
        f1 = _f1(variants, candidates) if len(variants) == 2 else None
        return choose_golden(variants, candidates), f1
    finally:
        for one in loaded:
            one.model.close()


def _f1(variants: Sequence[Model], texts: Sequence[str]) -> float:
    """Return the F1, from 0 to 1, of one variant's entities against another's; 1 if neither finds any."""
    left, right = (
        {
            (number, entity.start, entity.end, entity.label)
            for number, text in enumerate(texts)
            for entity in variant.predict([text])[0].entities
        }
        for variant in variants
    )
    return round(2 * len(left & right) / (len(left) + len(right)), 4) if left or right else 1.0


def _said_of(golden: Sequence[Golden], f1: float | None, candidates: int) -> str:
    said = f"{len(golden)} golden texts"
    if not golden:
        said = f"no golden texts: none of {candidates} sentences gave entities with scores of 0.9"
    return said if f1 is None else f"int8: {f1:.1%} of the entities as fp32; {said}"
