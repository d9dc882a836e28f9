"""Mean: the posteriors of several models become one.

The words of a text are the same for all members, the decisions are not: a tokenizer may hide
the edge between two words in one sub-token. An ensemble's text is cut at every edge that any member
sees, so that no tokenizer hides an entity from the others. A member whose decision is cut says of each
part what its tag says of it: of `S-PER` over two words the first is `B-PER` and the second `E-PER`, of
`O` both are `O`. So each member gives every part its posterior, their weighted arithmetic mean (the
linear opinion pool; Stone 1961, "The opinion pool") takes the place of a network's softmax, and is
decoded as one: entities are legal, scores are exact under the mean. Where members decide alike nothing
is cut, and members that agree on everything are answered as each of them answers. A member that has no
decision in a text, as where its tokenizer drops all of it, is sure that there is no entity.
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
    """The tag of a part of a decision, such that the parts together spell what the decision's tag does.

    Args:
        first, last: whether the part is the decision's first, and its last; the whole is both.
    """
    prefix, label = split_tag(tag)
    if prefix == "O":
        return tag
    if scheme == "BIOES":
        opens, closes = first and prefix in "BS", last and prefix in "ES"
        return f"{'S' if opens and closes else 'B' if opens else 'E' if closes else 'I'}-{label}"
    return tag if first else f"I-{label}"


class Mean:
    """The weighted mean of members' posteriors.

    Args:
        tags: the tag of each of its columns, all of those of `scheme`.
        member_tags: the tag of each column of each member.
        weights: of each member, positive.
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
        """Starts and ends of the ensemble's decisions in one text, and their posteriors.

        Returns:
            Shapes (decisions,), (decisions,) and (decisions, tags).
        """
        # Members' decisions begin and end where words do, and leave no word between them out.
        starts = reduce(np.union1d, (member.starts for member in members))
        ends = reduce(np.union1d, (member.ends for member in members))
        mean = np.zeros((len(starts), self._columns))
        for member, parts, weight in zip(members, self._parts, self._weights, strict=True):
            mean += weight * self._spread(member, parts, starts, ends)
        return starts, ends, mean

    def _spread(
        self, member: Evidence, parts: Mapping[tuple[bool, bool], Floats], starts: Ints, ends: Ints
    ) -> Floats:
        """A member's posteriors of the ensemble's decisions, in the ensemble's columns."""
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
