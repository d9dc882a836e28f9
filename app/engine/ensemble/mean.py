"""The mean of several models' posteriors becomes the posterior of their ensemble.

All members have the same words, but not the same decisions: a tokenizer may join two words in one
sub-token. The ensemble's decisions are cut at every edge that any member has, so that no tokenizer hides an
entity from the others. A member whose decision is cut gives each part the tag that spells the same entity:
`S-PER` over two words becomes `B-PER E-PER`, and `O` becomes `O O`. The weighted arithmetic mean of all
members' posteriors (the linear opinion pool; Stone 1961, "The opinion pool") is then decoded like a
network's softmax, so entities are legal and scores are exact under the mean. Members that agree on
everything are answered as each of them answers. A member without decisions in a text, whose tokenizer
dropped all of it, counts as sure that there is no entity.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from math import fsum

import numpy as np

from app.engine.decoding.entities import Evidence
from app.engine.decoding.spans import Floats
from app.engine.text.words import Ints
from app.labels import Scheme, split_tag


def part_tag(tag: str, scheme: Scheme, first: bool, last: bool) -> str:
    """Return the tag of a part of a decision, so that all parts together spell the decision's entity.

    Args:
        tag: the tag of the whole decision.
        first, last: whether the part is the first and whether it is the last of the decision's parts.
    """
    prefix, label = split_tag(tag)
    if prefix == "O":
        return tag
    if scheme == "BIOES":
        opens, closes = first and prefix in "BS", last and prefix in "ES"
        return f"{'S' if opens and closes else 'B' if opens else 'E' if closes else 'I'}-{label}"
    return tag if first else f"I-{label}"


class Mean:
    """Computes the weighted mean of members' posteriors.

    Args:
        tags: the tag of each column of the mean; all tags of `scheme` must be there.
        member_tags: the tag of each column of each member's posteriors.
        weights: weight of each member, positive.
    """

    def __init__(
        self,
        tags: Sequence[str],
        scheme: Scheme,
        member_tags: Sequence[Sequence[str]],
        weights: Sequence[float],
    ):
        self._outside = tags.index("O")
        self._columns = len(tags)
        self._weights = [weight / fsum(weights) for weight in weights]
        self._parts: list[dict[tuple[bool, bool], Floats]] = [
            {
                (first, last): np.array(
                    [[part_tag(tag, scheme, first, last) == t for t in tags] for tag in own], np.float64
                )
                for first, last in product((False, True), repeat=2)
            }
            for own in member_tags
        ]

    def __call__(self, members: Sequence[Evidence]) -> tuple[Ints, Ints, Floats]:
        """Return the ensemble's decisions in one text: starts, ends and posteriors.

        Their shapes are (decisions,), (decisions,) and (decisions, tags); starts and ends are code points.
        """
        # Every member's decisions cover all words and are cut between words.
        starts = reduce(np.union1d, (member.starts for member in members))
        ends = reduce(np.union1d, (member.ends for member in members))
        mean = np.zeros((len(starts), self._columns))
        for member, parts, weight in zip(members, self._parts, self._weights, strict=True):
            mean += weight * self._spread(member, parts, starts, ends)
        return starts, ends, mean

    def _spread(
        self, member: Evidence, parts: Mapping[tuple[bool, bool], Floats], starts: Ints, ends: Ints
    ) -> Floats:
        """Return a member's posteriors for the ensemble's decisions, in the ensemble's columns."""
        spread = np.zeros((len(starts), self._columns))
        if not len(member.starts):
            spread[:, self._outside] = 1
            return spread
        owner = np.searchsorted(member.starts, starts, side="right") - 1
        opens, closes = member.starts[owner] == starts, member.ends[owner] == ends
        for (first, last), part in parts.items():
            at = np.flatnonzero((opens == first) & (closes == last))
            spread[at] = member.posteriors[owner[at]] @ part
        return spread
