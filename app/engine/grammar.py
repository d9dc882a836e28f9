"""Grammar: how tags spell entities, and which tag may follow which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Scheme = Literal["IO", "IOB1", "IOB2", "BIOES"]

_PREFIXES: dict[Scheme, str] = {"IO": "I", "IOB1": "BI", "IOB2": "BI", "BIOES": "BIES"}


def split_tag(tag: str) -> tuple[str, str]:
    """`B-PER` → (`B`, `PER`); `O` → (`O`, "")."""
    prefix, _, label = tag.partition("-")
    return prefix, label


def tags_of(labels: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Every tag of a scheme over these labels, `O` first."""
    return (
        "O",
        *(f"{prefix}-{label}" for label in labels for prefix in _PREFIXES[scheme]),
    )


@dataclass(frozen=True)
class Grammar:
    """Which tag may follow which, and whether it then continues the entity before it.

    Attributes:
        legal: (tags, tags) whether the second may follow the first.
        joins: (tags, tags) whether the second continues the entity that the first is in.
        first: (tags,) may open a text.
        final: (tags,) may end one.
    """

    legal: npt.NDArray[np.bool_]
    joins: npt.NDArray[np.bool_]
    first: npt.NDArray[np.bool_]
    final: npt.NDArray[np.bool_]


def joins(before: str, after: str, scheme: Scheme) -> bool:
    """Whether the second tag continues the entity that the first is in."""
    (left, left_label), (right, right_label) = split_tag(before), split_tag(after)
    if "O" in (left, right) or left_label != right_label:
        return False
    if scheme == "BIOES":
        return left in "BI" and right in "IE"
    return right == "I"


def legal(before: str, after: str, scheme: Scheme) -> bool:
    """Whether the second tag may follow the first; the two ends of a text are as `O`."""
    left, right = before[0], after[0]
    if right not in "O" + _PREFIXES[scheme]:
        return False
    if scheme == "BIOES":
        return joins(before, after, scheme) if left in "BI" else right in "OBS"
    if scheme == "IOB2":
        return right != "I" or joins(before, after, scheme)
    if scheme == "IOB1":  # B only parts two neighbours of one label
        return right != "B" or (left != "O" and before[2:] == after[2:])
    return True


def grammar(tags: Sequence[str], scheme: Scheme) -> Grammar:
    """The grammar of `tags` under `scheme`."""
    return Grammar(
        np.array([[legal(a, b, scheme) for b in tags] for a in tags]),
        np.array([[joins(a, b, scheme) for b in tags] for a in tags]),
        np.array([legal("O", tag, scheme) for tag in tags]),
        np.array([legal(tag, "O", scheme) for tag in tags]),
    )
