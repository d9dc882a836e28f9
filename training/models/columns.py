"""This module finds out which tag each column of a checkpoint's logits stands for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.labels import Scheme, split_tag, tags_of
from training.data.tags import plain_tag

_NO_TAGS = frozenset({"[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "<PAD>", "PAD", "X"})
"""Columns that some trainers add for sub-tokens without a label; X marks a word's later ones in BERT."""

_PREFIXED = re.compile(r"([BIESLUMW])[-_](.+)", re.IGNORECASE)
_SUFFIXED = re.compile(r"(.+)[-_]([BIESLUMW])", re.IGNORECASE)

_STARTS: dict[Scheme, str] = {"IO": "I", "IOB1": "I", "IOB2": "B", "BIOES": "BS"}
_ENDS: dict[Scheme, str] = {"IO": "I", "IOB1": "I", "IOB2": "BI", "BIOES": "ES"}


@dataclass(frozen=True)
class Columns:
    """Says what the columns of a checkpoint's logits mean.

    Attributes:
        numbers: the columns that are tags.
        tags: the tag of each of these columns, in this project's spelling.
        labels: entity types in the order in which the columns name them.
        scheme: how the tags spell entities.
        reason: why this scheme was chosen, for messages.
    """

    numbers: tuple[int, ...]
    tags: tuple[str, ...]
    labels: tuple[str, ...]
    scheme: Scheme
    reason: str


def read_columns(names: Sequence[str], scheme: Scheme | None = None) -> Columns:
    """Read the meaning of columns from their names.

    Args:
        scheme: the scheme that the user chose; None detects it from the tags.

    Raises:
        ValueError: the names are no tags, or not tags of the scheme.
    """
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise ValueError(
            f"the tags are {_listed(names)}, which is no meaning; name the columns in id2label of "
            "config.json as they were trained, such as O, B-PER, I-PER"
        )
    numbers = tuple(column for column, name in enumerate(names) if name.upper() not in _NO_TAGS)
    tags = _plain([names[column] for column in numbers])
    if "O" not in tags or len(tags) < 2 or len(set(tags)) < len(tags):
        raise ValueError(
            f"the tags are {_listed(names)}; they must be distinct, one of them O (no entity): rename "
            "them in id2label of config.json"
        )
    labels = tuple(dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O"))
    found, reason = (scheme, "as was asked for") if scheme else _find_scheme(tags, labels)
    if wrong := sorted(set(tags) - set(tags_of(labels, found))):
        raise ValueError(
            f"scheme {found} has no {_listed(wrong)}; the tags are {_listed(names)}: choose another scheme"
        )
    silent = [label for label in labels if not _can_speak(tags, label, found)]
    if len(silent) == len(labels):
        raise ValueError(
            f"under scheme {found} no entity can be spelled with the tags {_listed(names)}; choose "
            "another scheme (IOE is not known)"
        )
    if silent:
        reason += f"; no tags to start or end {_listed(silent)}, which cannot be found"
    return Columns(numbers, tags, labels, found, reason)


def _plain(names: Sequence[str]) -> tuple[str, ...]:
    """Return tags in this project's spelling, from spellings such as `b_PER`, `PER-B` or `PER`.

    Raises:
        ValueError: some have a prefix and others none.
    """
    named = [name for name in names if name not in ("O", "o")]
    prefixed = [name for name in named if _PREFIXED.fullmatch(name)]
    if prefixed and len(prefixed) < len(named):
        bare = [name for name in named if name not in prefixed]
        raise ValueError(
            f"the tags are {_listed(names)}: {_listed(prefixed)} have a prefix, {_listed(bare)} none; "
            "rename them in id2label of config.json"
        )
    suffixed = not prefixed and all(_SUFFIXED.fullmatch(name) for name in named)

    def plain(name: str) -> str:
        if name in ("O", "o"):
            return "O"
        if prefixed:
            prefix, label = name[0], name[2:]
        elif suffixed:
            prefix, label = name[-1], name[:-2]
        else:
            prefix, label = "I", name
        return plain_tag(f"{prefix.upper()}-{label}")

    return tuple(plain(name) for name in names)


def _find_scheme(tags: Sequence[str], labels: Sequence[str]) -> tuple[Scheme, str]:
    """Return the scheme that the tags show, and the reason."""
    prefixes = {tag[0] for tag in tags} - {"O"}
    if prefixes & {"E", "S"}:
        return "BIOES", "as its tags have E or S"
    if prefixes == {"I"}:
        return "IO", "as its tags have no B"
    lacking = [label for label in labels if f"B-{label}" not in tags]
    if lacking:
        return "IOB1", f"as {_listed(lacking)} has I but no B"
    return "IOB2", "assumed: its tags would be the same in IOB1 (--scheme IOB1 if it was trained so)"


def _can_speak(tags: Sequence[str], label: str, scheme: Scheme) -> bool:
    prefixes = {tag[0] for tag in tags if tag[2:] == label}
    return bool(prefixes & set(_STARTS[scheme]) and prefixes & set(_ENDS[scheme]))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, and {len(names) - 12} more"
