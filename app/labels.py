"""Labels are spelled by tags, in one of several tag schemes. This module imports nothing of Nerve.

A scheme says how tags spell entities: an entity `B-PER I-PER` in IOB2 is `B-PER E-PER` in BIOES.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Scheme = Literal["IO", "IOB1", "IOB2", "BIOES"]
WordRule = Literal["bert", "space"]
"""A rule splits words at blanks, punctuation and Han characters as BERT defines them, or only at blanks."""


class Prefixes(NamedTuple):
    """Holds the prefixes of a scheme's tags (without `O`), by the place of a decision in its entity.

    In IO and IOB1 the tag `I` may begin an entity or continue one. IOB1's `B` begins an entity right after
    another of the same label, so for the state machine that scores entities it stays and leaves.

    Attributes:
        alone: prefix of an entity that is a single decision.
        enters: prefix of the first decision of a longer entity.
        stays: prefix of a decision inside a longer entity; empty if no tag says this by itself.
        leaves: prefix of the last decision of a longer entity; empty if no tag says this by itself.
    """

    alone: str
    enters: str
    stays: str
    leaves: str


PREFIXES_BY_PART: dict[Scheme, Prefixes] = {
    "IO": Prefixes("I", "I", "", ""),
    "IOB1": Prefixes("I", "I", "B", "B"),
    "IOB2": Prefixes("B", "B", "I", "I"),
    "BIOES": Prefixes("S", "B", "I", "E"),
}

PREFIXES: dict[Scheme, str] = {
    scheme: "".join(prefix for prefix in "BIES" if prefix in parts)
    for scheme, parts in PREFIXES_BY_PART.items()
}
"""These are the prefixes of each scheme's tags, without `O`, in the order in which tags are numbered."""


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and label: `B-PER` into `B` and `PER`, `O` into `O` and an empty label."""
    prefix, _, label = tag.partition("-")
    return prefix, label


def tags_of(labels: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Return every tag of a scheme over these labels, `O` first."""
    return (
        "O",
        *(f"{prefix}-{label}" for label in labels for prefix in PREFIXES[scheme]),
    )


def joins(before: str, after: str, scheme: Scheme) -> bool:
    """Say whether the second tag continues the entity of the first tag."""
    (left, left_label), (right, right_label) = split_tag(before), split_tag(after)
    if "O" in (left, right) or left_label != right_label:
        return False
    if scheme == "BIOES":
        return left in "BI" and right in "IE"
    return right == "I"


def legal(before: str, after: str, scheme: Scheme) -> bool:
    """Say whether the second tag may follow the first; the two ends of a text count as `O`."""
    left, right = before[0], after[0]
    if right not in "O" + PREFIXES[scheme]:
        return False
    if scheme == "BIOES":
        return joins(before, after, scheme) if left in "BI" else right in "OBS"
    if scheme == "IOB2":
        return right != "I" or joins(before, after, scheme)
    if scheme == "IOB1":  # `B` is only legal right after an entity of the same label
        return right != "B" or (left != "O" and before[2:] == after[2:])
    return True
