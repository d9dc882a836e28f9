"""Labels: tag schemes, tags and word rules. Nothing of ours is imported here.

A scheme says how the tags of words spell entities: `B-PER I-PER` in IOB2 is what `B-PER E-PER` is in BIOES.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Scheme = Literal["IO", "IOB1", "IOB2", "BIOES"]
WordRule = Literal["bert", "space"]
"""What parts words: blanks, punctuation and Han characters as BERT defines them, or blanks alone."""


class Prefixes(NamedTuple):
    """What the tags of a scheme begin with, by the part that they play; `O` aside.

    In IO and IOB1 a tag alone does not say whether it opens an entity or continues one, so both parts are
    spelled alike, and a tag that only parts two neighbours of one label is the one that stays and leaves.

    Attributes:
        alone: of an entity that is a single decision.
        enters: of the first decision of a longer one.
        stays: of a decision within one; empty where no tag says so by itself.
        leaves: of its last decision; likewise.
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
"""All that the tags of a scheme begin with, `O` aside, in the order in which tags are numbered."""


def split_tag(tag: str) -> tuple[str, str]:
    """`B-PER` → (`B`, `PER`); `O` → (`O`, "")."""
    prefix, _, label = tag.partition("-")
    return prefix, label


def tags_of(labels: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Every tag of a scheme over these labels, `O` first."""
    return (
        "O",
        *(f"{prefix}-{label}" for label in labels for prefix in PREFIXES[scheme]),
    )


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
    if right not in "O" + PREFIXES[scheme]:
        return False
    if scheme == "BIOES":
        return joins(before, after, scheme) if left in "BI" else right in "OBS"
    if scheme == "IOB2":
        return right != "I" or joins(before, after, scheme)
    if scheme == "IOB1":  # B only parts two neighbours of one label
        return right != "B" or (left != "O" and before[2:] == after[2:])
    return True
